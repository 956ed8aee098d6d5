// Comparisons as lookup tables, one a bit at most: as carry chains, which is what Yosys makes of them, they take a logic
// cell a bit and some more at either end, and an inverter a bit besides where one operand is no register. Wide ones stay
// chains, which are faster.

(* techmap_celltype = "$lt $le $gt $ge" *)
module compare(A, B, Y);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  parameter _TECHMAP_CELLTYPE_ = "";
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;

  localparam WIDTH = A_WIDTH > B_WIDTH ? A_WIDTH : B_WIDTH;
  localparam IS_SIGNED = A_SIGNED && B_SIGNED;
  localparam SWAPS = _TECHMAP_CELLTYPE_ == "$gt" || _TECHMAP_CELLTYPE_ == "$ge";
  localparam OR_EQUAL = _TECHMAP_CELLTYPE_ == "$le" || _TECHMAP_CELLTYPE_ == "$ge";
  wire _TECHMAP_FAIL_ = WIDTH > 16;

  wire [WIDTH-1:0] a = {{WIDTH{IS_SIGNED && A[A_WIDTH-1]}}, A};
  wire [WIDTH-1:0] b = {{WIDTH{IS_SIGNED && B[B_WIDTH-1]}}, B};
  // A sign is the highest place, with its meaning reversed.
  wire [WIDTH-1:0] sign = IS_SIGNED ? 1 << (WIDTH - 1) : 0;
  wire [WIDTH-1:0] left = (SWAPS ? b : a) ^ sign, right = (SWAPS ? a : b) ^ sign;
  // The highest place in which both differ decides.
  wire [WIDTH:0] less;
  assign less[0] = OR_EQUAL ? 1'b1 : 1'b0;
  genvar i;
  generate
    for (i = 0; i < WIDTH; i = i + 1) begin:places
      assign less[i + 1] = left[i] ^ right[i] ? right[i] : less[i];
    end
  endgenerate
  assign Y = less[WIDTH];
endmodule
