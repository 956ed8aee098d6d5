// Of a Gowin part's cells those that Yosys has no model of, or one that simulators of logic cannot take or are slow
// with: constants, tables, memories, multipliers, which are used without their registers, and PLLs. Clocks rise. PLLs
// are locked from the start, and their rate is another matter: all that runs on their clock counts clocks. After Gowin's
// SUG283 (primitives), UG285 (memory) and UG287 (DSP).

module VCC(output V);
  assign V = 1'b1;
endmodule

module GND(output G);
  assign G = 1'b0;
endmodule

// Of Yosys' own tables and memories of 16 words, which do the same, netlists run twenty times as slowly: they pick bits
// of vectors.
module LUT1(output F, input I0);
  parameter [1:0] INIT = 2'h0;
  \$lut #(.WIDTH(1), .LUT(INIT)) entry (.A(I0), .Y(F));
endmodule

module LUT2(output F, input I0, I1);
  parameter [3:0] INIT = 4'h0;
  \$lut #(.WIDTH(2), .LUT(INIT)) entry (.A({I1, I0}), .Y(F));
endmodule

module LUT3(output F, input I0, I1, I2);
  parameter [7:0] INIT = 8'h00;
  \$lut #(.WIDTH(3), .LUT(INIT)) entry (.A({I2, I1, I0}), .Y(F));
endmodule

module LUT4(output F, input I0, I1, I2, I3);
  parameter [15:0] INIT = 16'h0000;
  \$lut #(.WIDTH(4), .LUT(INIT)) entry (.A({I3, I2, I1, I0}), .Y(F));
endmodule

`define HALFULP_WORDS(NAME, WIDTH) \
module NAME(output [WIDTH - 1:0] DO, input [WIDTH - 1:0] DI, input [3:0] WAD, RAD, input WRE, CLK); \
  parameter [15:0] INIT_0 = 16'h0000; \
  parameter [15:0] INIT_1 = 16'h0000; \
  parameter [15:0] INIT_2 = 16'h0000; \
  parameter [15:0] INIT_3 = 16'h0000; \
  reg [WIDTH - 1:0] words [0:15]; \
  integer n; \
  initial for (n = 0; n < 16; n = n + 1) words[n] = {INIT_3[n], INIT_2[n], INIT_1[n], INIT_0[n]}; \
  assign DO = words[RAD]; \
  always @(posedge CLK) if (WRE) words[WAD] <= DI; \
endmodule
`HALFULP_WORDS(RAM16SDP1, 1)
`HALFULP_WORDS(RAM16SDP2, 2)
`HALFULP_WORDS(RAM16SDP4, 4)

// 512 rows of four elements of 8 bits, or of 9. Side A writes, side B reads what was there before the clock. An address
// counts bits; an element of 16 bits and more has an enable for each 8, or 9, in the lowest bits of the writing address.
module halfulp_block_memory(
  input write_clock, write, read_clock, read, input [13:0] write_address, read_address, input [35:0] written,
  output reg [35:0] found
);
  parameter WRITE_WIDTH = 36;
  parameter READ_WIDTH = 36;
  parameter BYTE = 9;
  parameter [18431:0] CONTENTS = 0;
  reg [35:0] rows [0:511];
  integer n;
  generate
    if (CONTENTS != 0) begin
      initial for (n = 0; n < 512; n = n + 1) rows[n] = CONTENTS[4 * BYTE * n +: 4 * BYTE];
    end
  endgenerate

  wire [5:0] byte_w = BYTE * write_address[4:3], byte_r = BYTE * read_address[4:3];
  wire [5:0] place_w = WRITE_WIDTH > 18 ? 0 : WRITE_WIDTH > 9 ? 2 * BYTE * write_address[4] : WRITE_WIDTH > 4 ? byte_w
      : WRITE_WIDTH == 4 ? byte_w + 4 * write_address[2] : WRITE_WIDTH == 2 ? byte_w + 2 * write_address[2:1]
      : byte_w + write_address[2:0];
  wire [5:0] place_r = READ_WIDTH > 18 ? 0 : READ_WIDTH > 9 ? 2 * BYTE * read_address[4] : READ_WIDTH > 4 ? byte_r
      : READ_WIDTH == 4 ? byte_r + 4 * read_address[2] : READ_WIDTH == 2 ? byte_r + 2 * read_address[2:1]
      : byte_r + read_address[2:0];
  wire [35:0] enabled = {{BYTE{write_address[3]}}, {BYTE{write_address[2]}}, {BYTE{write_address[1]}},
      {BYTE{write_address[0]}}};
  wire [35:0] element = WRITE_WIDTH > 18 ? enabled : WRITE_WIDTH > 9 ? enabled & ((36'h1 << 2 * BYTE) - 1)
      : (36'h1 << WRITE_WIDTH) - 1;
  wire [35:0] mask = element << place_w, old = rows[write_address[13:5]];
  always @(posedge write_clock) if (write) rows[write_address[13:5]] <= old & ~mask | (written << place_w) & mask;
  always @(posedge read_clock) if (read) found <= rows[read_address[13:5]] >> place_r;
endmodule

// Elements of 8 bits a byte, or of 9. Where both sides can write and read, A writes and B reads.
`define HALFULP_ONE_WAY(NAME, BYTE_BITS) \
module NAME( \
  input CLKA, CEA, CLKB, CEB, OCE, RESETA, RESETB, input [13:0] ADA, ADB, input [2:0] BLKSELA, BLKSELB, \
  input [4 * BYTE_BITS - 1:0] DI, output [4 * BYTE_BITS - 1:0] DO \
); \
  parameter READ_MODE = 1'b0; \
  parameter BIT_WIDTH_0 = 4 * BYTE_BITS; \
  parameter BIT_WIDTH_1 = 4 * BYTE_BITS; \
  parameter BLK_SEL_0 = 3'b000; \
  parameter BLK_SEL_1 = 3'b000; \
  parameter RESET_MODE = "SYNC"; \
  parameter [18431:0] CONTENTS = 0; \
  halfulp_block_memory #( \
    .WRITE_WIDTH(BIT_WIDTH_0), .READ_WIDTH(BIT_WIDTH_1), .BYTE(BYTE_BITS), .CONTENTS(CONTENTS) \
  ) memory ( \
    .write_clock(CLKA), .write(CEA), .write_address(ADA), .written(DI), \
    .read_clock(CLKB), .read(CEB), .read_address(ADB), .found(DO) \
  ); \
endmodule
`HALFULP_ONE_WAY(SDPB, 8)
`HALFULP_ONE_WAY(SDPX9B, 9)

`define HALFULP_TWO_WAY(NAME, BYTE_BITS) \
module NAME( \
  input CLKA, CEA, CLKB, CEB, OCEA, OCEB, RESETA, RESETB, WREA, WREB, input [13:0] ADA, ADB, \
  input [2:0] BLKSELA, BLKSELB, input [2 * BYTE_BITS - 1:0] DIA, DIB, output [2 * BYTE_BITS - 1:0] DOA, DOB \
); \
  parameter READ_MODE0 = 1'b0; \
  parameter READ_MODE1 = 1'b0; \
  parameter WRITE_MODE0 = 2'b00; \
  parameter WRITE_MODE1 = 2'b00; \
  parameter BIT_WIDTH_0 = 2 * BYTE_BITS; \
  parameter BIT_WIDTH_1 = 2 * BYTE_BITS; \
  parameter BLK_SEL_0 = 3'b000; \
  parameter BLK_SEL_1 = 3'b000; \
  parameter RESET_MODE = "SYNC"; \
  parameter [18431:0] CONTENTS = 0; \
  halfulp_block_memory #( \
    .WRITE_WIDTH(BIT_WIDTH_0), .READ_WIDTH(BIT_WIDTH_1), .BYTE(BYTE_BITS), .CONTENTS(CONTENTS) \
  ) memory ( \
    .write_clock(CLKA), .write(CEA & WREA), .write_address(ADA), .written(DIA), \
    .read_clock(CLKB), .read(CEB), .read_address(ADB), .found(DOB) \
  ); \
endmodule
`HALFULP_TWO_WAY(DPB, 8)
`HALFULP_TWO_WAY(DPX9B, 9)

module MULT9X9(
  input [8:0] A, SIA, B, SIB, input ASIGN, BSIGN, ASEL, BSEL, CE, CLK, RESET, output [17:0] DOUT, output [8:0] SOA, SOB
);
  assign DOUT = {{9{ASIGN & A[8]}}, A} * {{9{BSIGN & B[8]}}, B};
endmodule

module MULT18X18(
  input [17:0] A, SIA, B, SIB, input ASIGN, BSIGN, ASEL, BSEL, CE, CLK, RESET,
  output [35:0] DOUT, output [17:0] SOA, SOB
);
  assign DOUT = {{18{ASIGN & A[17]}}, A} * {{18{BSIGN & B[17]}}, B};
endmodule

module rPLL(
  input CLKIN, CLKFB, RESET, RESET_P, input [5:0] FBDSEL, IDSEL, ODSEL, input [3:0] DUTYDA, PSDA, FDLY,
  output CLKOUT, LOCK
);
  parameter FCLKIN = "27";
  parameter DEVICE = "GW1NR-9C";
  parameter IDIV_SEL = 0;
  parameter FBDIV_SEL = 0;
  parameter ODIV_SEL = 8;
  assign CLKOUT = CLKIN, LOCK = 1'b1;
endmodule
