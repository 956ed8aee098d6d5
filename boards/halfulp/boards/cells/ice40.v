// Of an iCE40's cells those that Yosys has no model of, or one that simulators of logic cannot take or are slow with:
// tables, pins, PLLs and block memories. Clocks rise. PLLs are locked from the start, and their rate is another matter:
// all that runs on their clock counts clocks. After Lattice's FPGA-TN-02002 (memory) and its iCE Technology Library.

// With Yosys' own, which does the same, netlists run twenty times as slowly: it picks bits of vectors.
module SB_LUT4(input I0, I1, I2, I3, output O);
  parameter [15:0] LUT_INIT = 16'h0000;
  \$lut #(.WIDTH(4), .LUT(LUT_INIT)) entry (.A({I3, I2, I1, I0}), .Y(O));
endmodule

module SB_IO(inout PACKAGE_PIN, input D_OUT_0, OUTPUT_ENABLE, CLOCK_ENABLE, output D_IN_0);
  parameter [5:0] PIN_TYPE = 6'b000000;
  parameter [0:0] PULLUP = 1'b0;
  parameter IO_STANDARD = "SB_LVCMOS";
  assign D_IN_0 = PACKAGE_PIN;
  generate
    if (PIN_TYPE[5:2] != 0) assign PACKAGE_PIN = D_OUT_0;
  endgenerate
endmodule

module SB_GB_IO(inout PACKAGE_PIN, input D_OUT_0, OUTPUT_ENABLE, CLOCK_ENABLE, output D_IN_0, GLOBAL_BUFFER_OUTPUT);
  parameter [5:0] PIN_TYPE = 6'b000000;
  parameter [0:0] PULLUP = 1'b0;
  parameter IO_STANDARD = "SB_LVCMOS";
  assign D_IN_0 = PACKAGE_PIN, GLOBAL_BUFFER_OUTPUT = PACKAGE_PIN;
endmodule

module SB_PLL40_CORE(input REFERENCECLK, RESETB, BYPASS, output PLLOUTGLOBAL, LOCK);
  parameter FEEDBACK_PATH = "SIMPLE";
  parameter DIVR = 0;
  parameter DIVF = 0;
  parameter DIVQ = 0;
  parameter FILTER_RANGE = 0;
  assign PLLOUTGLOBAL = REFERENCECLK, LOCK = 1'b1;
endmodule

module SB_PLL40_PAD(input PACKAGEPIN, RESETB, BYPASS, output PLLOUTGLOBAL, LOCK);
  parameter FEEDBACK_PATH = "SIMPLE";
  parameter DIVR = 0;
  parameter DIVF = 0;
  parameter DIVQ = 0;
  parameter FILTER_RANGE = 0;
  assign PLLOUTGLOBAL = PACKAGEPIN, LOCK = 1'b1;
endmodule

// 256 words of 16 bits. Elements of 8, 4 or 2 bits lie side by side in a word, bit by bit: each bit has a pin for all of
// its places, and the upper address tells which of them it is.
module SB_RAM40_4K(
  input RCLK, RCLKE, RE, WCLK, WCLKE, WE, input [10:0] RADDR, WADDR, input [15:0] MASK, WDATA, output [15:0] RDATA
);
  parameter WRITE_MODE = 0;
  parameter READ_MODE = 0;
  parameter [4095:0] CONTENTS = 0;
  reg [15:0] words [0:255];
  integer n;
  generate
    if (CONTENTS != 0) begin
      initial for (n = 0; n < 256; n = n + 1) words[n] = CONTENTS[16 * n +: 16];
    end
  endgenerate
  reg [15:0] found;
  wire [15:0] written, mask;
  genvar i;
  generate
    for (i = 0; i < 16; i = i + 1) begin
      localparam place = i % (1 << WRITE_MODE);
      localparam pin = i - place + (1 << WRITE_MODE) / 2 - (WRITE_MODE > 0);
      assign written[i] = WDATA[pin];
      assign mask[i] = WRITE_MODE == 0 ? !MASK[i] : (WADDR[10:8] & ((1 << WRITE_MODE) - 1)) == place;
    end
  endgenerate
  always @(posedge WCLK) if (WCLKE & WE) words[WADDR[7:0]] <= words[WADDR[7:0]] & ~mask | written & mask;
  wire [3:0] shift = RADDR[10:8] & ((1 << READ_MODE) - 1);
  always @(posedge RCLK) if (RCLKE & RE) found <= words[RADDR[7:0]] >> shift;
  generate
    for (i = 0; i < 16; i = i + 1) begin
      localparam place = i % (1 << READ_MODE);
      localparam is_pin = place == (1 << READ_MODE) / 2 - (READ_MODE > 0);
      assign RDATA[i] = is_pin ? found[i - place] : 1'b0;
    end
  endgenerate
endmodule
