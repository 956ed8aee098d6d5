// Of an iCE40's cells those that Yosys has no model of, or one of a chip's edge that simulators of logic cannot take:
// pins and PLLs. Clocks rise. PLLs are locked from the start, and their rate is another matter: all that runs on their
// clock counts clocks.

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
