// What the cells do that Yosys makes of a design for ECP5: as little of each as its netlists use. Clocks rise, resets
// are synchronous. After Lattice's FPGA-TN-02204 (memory), FPGA-TN-02205 (DSP) and FPGA-DS-02012.

module LUT4(input A, B, C, D, output Z);
  parameter [15:0] INIT = 16'h0000;
  \$lut #(.WIDTH(4), .LUT(INIT)) entry (.A({D, C, B, A}), .Y(Z));
endmodule

// Two bits of an adder. Where a bit's table is 1 it passes its carry on, else its carry is the table's entry for A and
// B with C and D 0.
module CCU2C(input CIN, A0, B0, C0, D0, A1, B1, C1, D1, output S0, S1, COUT);
  parameter [15:0] INIT0 = 16'h0000;
  parameter [15:0] INIT1 = 16'h0000;
  parameter INJECT1_0 = "NO";
  parameter INJECT1_1 = "NO";
  wire pass0, pass1, made0, made1;
  \$lut #(.WIDTH(4), .LUT(INIT0)) passes0 (.A({D0, C0, B0, A0}), .Y(pass0));
  \$lut #(.WIDTH(4), .LUT(INIT1)) passes1 (.A({D1, C1, B1, A1}), .Y(pass1));
  \$lut #(.WIDTH(2), .LUT(INIT0[3:0])) makes0 (.A({B0, A0}), .Y(made0));
  \$lut #(.WIDTH(2), .LUT(INIT1[3:0])) makes1 (.A({B1, A1}), .Y(made1));
  wire middle = pass0 ? CIN : made0;
  assign S0 = pass0 ^ CIN;
  assign S1 = pass1 ^ middle;
  assign COUT = pass1 ? middle : made1;
endmodule

module TRELLIS_FF(input CLK, LSR, CE, DI, output reg Q);
  parameter GSR = "DISABLED";
  parameter CEMUX = "CE";
  parameter CLKMUX = "CLK";
  parameter LSRMUX = "LSR";
  parameter SRMODE = "LSR_OVER_CE";
  parameter REGSET = "RESET";
  initial Q = REGSET == "SET";
  always @(posedge CLK)
    if (LSR) Q <= REGSET == "SET";
    else if (CEMUX == "CE" ? CE : CEMUX == "INV" ? !CE : 1'b1) Q <= DI;
endmodule

module TRELLIS_DPR16X4(input [3:0] DI, WAD, RAD, input WRE, WCK, output [3:0] DO);
  parameter [63:0] INITVAL = 64'h0;
  parameter WCKMUX = "WCK";
  parameter WREMUX = "WRE";
  reg [3:0] words [0:15];
  integer n;
  initial for (n = 0; n < 16; n = n + 1) words[n] = INITVAL[4 * n +: 4];
  assign DO = words[RAD];
  always @(posedge WCK) if (WRE) words[WAD] <= DI;
endmodule

// Registers before and behind the product where a clock is named for them, all with one enable and reset.
module MULT18X18D(
  input [17:0] A, B, C, input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0, output [35:0] P
);
  parameter REG_INPUTA_CLK = "NONE";
  parameter REG_INPUTA_CE = "CE0";
  parameter REG_INPUTA_RST = "RST0";
  parameter REG_INPUTB_CLK = "NONE";
  parameter REG_INPUTB_CE = "CE0";
  parameter REG_INPUTB_RST = "RST0";
  parameter REG_OUTPUT_CLK = "NONE";
  parameter REG_OUTPUT_CE = "CE0";
  parameter REG_OUTPUT_RST = "RST0";
  parameter RESETMODE = "SYNC";
  reg [17:0] held_a, held_b;
  reg [35:0] held_p;
  wire [17:0] a = REG_INPUTA_CLK == "NONE" ? A : held_a, b = REG_INPUTB_CLK == "NONE" ? B : held_b;
  wire [35:0] product = {{18{SIGNEDA & a[17]}}, a} * {{18{SIGNEDB & b[17]}}, b};
  assign P = REG_OUTPUT_CLK == "NONE" ? product : held_p;
  always @(posedge CLK0)
    if (RST0) {held_a, held_b, held_p} <= 72'h0;
    else if (CE0) {held_a, held_b, held_p} <= {A, B, product};
endmodule

// 512 times two rows of 18 bits. Side A writes, or with 36 bits both sides together; a clock's reads see what was
// there before it, and leave a clock later where their side has a register. Sides of 18 and 36 bits have an enable for
// each 9 in the lowest bits of the writing address.
module DP16KD(
  input [17:0] DIA, DIB, input [13:0] ADA, ADB, input [2:0] CSA, CSB,
  input CEA, CEB, OCEA, OCEB, CLKA, CLKB, WEA, WEB, RSTA, RSTB, output [17:0] DOA, DOB
);
  parameter DATA_WIDTH_A = 18;
  parameter DATA_WIDTH_B = 18;
  parameter REGMODE_A = "NOREG";
  parameter REGMODE_B = "NOREG";
  parameter RESETMODE = "SYNC";
  parameter ASYNC_RESET_RELEASE = "SYNC";
  parameter CSDECODE_A = "0b000";
  parameter CSDECODE_B = "0b000";
  parameter WRITEMODE_A = "NORMAL";
  parameter WRITEMODE_B = "NORMAL";
  parameter CLKAMUX = "CLKA";
  parameter CLKBMUX = "CLKB";
  parameter GSR = "DISABLED";
  parameter [18431:0] CONTENTS = 0;
  reg [35:0] rows [0:511];
  integer n;
  generate
    if (CONTENTS != 0) begin
      initial for (n = 0; n < 512; n = n + 1) rows[n] = CONTENTS[36 * n +: 36];
    end
  endgenerate

  // The first bit of the element: with 36 bits 0, with fewer than 9 not a parity bit.
  wire [5:0] byte_a = 9 * ADA[4:3], byte_b = 9 * ADB[4:3];
  wire [5:0] place_a = DATA_WIDTH_A == 36 ? 0 : DATA_WIDTH_A == 18 ? 18 * ADA[4] : DATA_WIDTH_A == 9 ? byte_a
      : DATA_WIDTH_A == 4 ? byte_a + 4 * ADA[2] : DATA_WIDTH_A == 2 ? byte_a + 2 * ADA[2:1] : byte_a + ADA[2:0];
  wire [5:0] place_b = DATA_WIDTH_B == 36 ? 0 : DATA_WIDTH_B == 18 ? 18 * ADB[4] : DATA_WIDTH_B == 9 ? byte_b
      : DATA_WIDTH_B == 4 ? byte_b + 4 * ADB[2] : DATA_WIDTH_B == 2 ? byte_b + 2 * ADB[2:1] : byte_b + ADB[2:0];
  wire [35:0] nines = {{9{ADA[3]}}, {9{ADA[2]}}, {9{ADA[1]}}, {9{ADA[0]}}};
  wire [35:0] element = DATA_WIDTH_A == 36 ? nines : DATA_WIDTH_A == 18 ? {18'h0, nines[17:0]}
      : (36'h1 << DATA_WIDTH_A) - 1;
  wire [35:0] mask = element << place_a, written = {DIB, DIA} << place_a;
  wire [35:0] old = rows[ADA[13:5]];
  reg [35:0] read_a, read_b;
  always @(posedge CLKA) begin
    if (CEA & WEA & (CSA == 0)) rows[ADA[13:5]] <= old & ~mask | written & mask;
    if (CEA) read_a <= old >> place_a;
  end
  always @(posedge CLKB) if (CEB) read_b <= rows[ADB[13:5]] >> place_b;
  wire [17:0] left_a = DATA_WIDTH_B == 36 ? read_b[17:0] : read_a[17:0];
  wire [17:0] left_b = DATA_WIDTH_B == 36 ? read_b[35:18] : read_b[17:0];
  reg [17:0] held_a, held_b;
  always @(posedge CLKA) if (OCEA) held_a <= left_a;
  always @(posedge CLKB) if (OCEB) held_b <= left_b;
  assign DOA = REGMODE_A == "OUTREG" ? held_a : left_a;
  assign DOB = REGMODE_B == "OUTREG" ? held_b : left_b;
endmodule

// A pin, which is either an input or an output.
module TRELLIS_IO(inout B, input I, T, output O);
  parameter DIR = "INPUT";
  generate
    if (DIR == "INPUT") assign O = B;
    else assign B = I;
  endgenerate
endmodule

// Locked from the start. Its rate is another matter: all that runs on its clock counts clocks.
module EHXPLLL(
  input CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG, PLLWAKESYNC, ENCLKOP,
  output CLKOP, LOCK
);
  parameter CLKI_DIV = 1;
  parameter CLKFB_DIV = 1;
  parameter CLKOP_DIV = 1;
  parameter CLKOP_CPHASE = 0;
  parameter CLKOP_FPHASE = 0;
  parameter CLKOP_ENABLE = "ENABLED";
  parameter FEEDBK_PATH = "CLKOP";
  assign CLKOP = CLKI, LOCK = 1'b1;
endmodule
