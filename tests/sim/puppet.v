// A core that does with its memory bus what its registers say, right or wrong: it puts the memory's model and its
// protocol checker to the test. Offsets are those used in test_rtl.py.
module halfulp_core (
    input aclk, input aresetn,
    input [11:0] s_axi_awaddr, input [2:0] s_axi_awprot, input s_axi_awvalid, output s_axi_awready,
    input [31:0] s_axi_wdata, input [3:0] s_axi_wstrb, input s_axi_wvalid, output s_axi_wready,
    output [1:0] s_axi_bresp, output reg s_axi_bvalid, input s_axi_bready,
    input [11:0] s_axi_araddr, input [2:0] s_axi_arprot, input s_axi_arvalid, output s_axi_arready,
    output reg [31:0] s_axi_rdata, output [1:0] s_axi_rresp, output reg s_axi_rvalid, input s_axi_rready,
    output m_axi_arid, output [63:0] m_axi_araddr, output [7:0] m_axi_arlen, output [2:0] m_axi_arsize,
    output [1:0] m_axi_arburst, output m_axi_arlock, output [3:0] m_axi_arcache, output [2:0] m_axi_arprot,
    output [3:0] m_axi_arqos, output m_axi_arvalid, input m_axi_arready,
    input m_axi_rid, input [63:0] m_axi_rdata, input [1:0] m_axi_rresp, input m_axi_rlast, input m_axi_rvalid,
    output m_axi_rready,
    output m_axi_awid, output [63:0] m_axi_awaddr, output [7:0] m_axi_awlen, output [2:0] m_axi_awsize,
    output [1:0] m_axi_awburst, output m_axi_awlock, output [3:0] m_axi_awcache, output [2:0] m_axi_awprot,
    output [3:0] m_axi_awqos, output m_axi_awvalid, input m_axi_awready,
    output [63:0] m_axi_wdata, output [7:0] m_axi_wstrb, output m_axi_wlast, output m_axi_wvalid, input m_axi_wready,
    input m_axi_bid, input [1:0] m_axi_bresp, input m_axi_bvalid, output m_axi_bready,
    output interrupt
);
    // 0x00 to 0x0c: addresses of AR and AW, low and high. 0x10, 0x14: {lock, prot, cache, burst, size, len} of each.
    // 0x18: low word of WDATA, whose high word is its complement. 0x1c: {last, beats, strobes} of the W burst.
    // 0x20: pins. 0x24: forbids answers on the register bus.
    reg [31:0] settings [0:9];
    wire [31:0] ar = settings[4], aw = settings[5], w = settings[7], pins = settings[8];
    assign m_axi_araddr = {settings[1], settings[0]};
    assign m_axi_awaddr = {settings[3], settings[2]};
    assign {m_axi_arlock, m_axi_arprot, m_axi_arcache, m_axi_arburst, m_axi_arsize, m_axi_arlen} = ar[20:0];
    assign {m_axi_awlock, m_axi_awprot, m_axi_awcache, m_axi_awburst, m_axi_awsize, m_axi_awlen} = aw[20:0];
    assign {m_axi_arid, m_axi_awid, m_axi_arqos, m_axi_awqos} = 10'd0;

    // Requests fall when they are taken; data counts its beats.
    reg arvalid, awvalid;
    reg [7:0] beat, beats;
    assign m_axi_arvalid = arvalid, m_axi_awvalid = awvalid;
    assign m_axi_wvalid = beats != 0;
    assign m_axi_wdata = {~settings[6], settings[6] + {24'd0, beat}};
    assign m_axi_wstrb = w[7:0];
    assign m_axi_wlast = beat == w[23:16];
    assign m_axi_rready = pins[3], m_axi_bready = pins[4], interrupt = pins[5];

    reg [31:0] now, seen [0:15];
    wire writes = s_axi_awvalid & s_axi_wvalid & ~s_axi_bvalid & ~settings[9][0];
    assign s_axi_awready = writes, s_axi_wready = writes, s_axi_arready = ~s_axi_rvalid & ~settings[9][0];
    assign s_axi_bresp = s_axi_awaddr[11] ? 2'd2 : 2'd0, s_axi_rresp = s_axi_araddr[11] ? 2'd3 : 2'd0;

    integer i;
    always @(posedge aclk) begin
        now <= now + 1;
        if (s_axi_bready) s_axi_bvalid <= 0;
        if (s_axi_rready) s_axi_rvalid <= 0;
        if (s_axi_arvalid & s_axi_arready) begin
            s_axi_rvalid <= 1;
            s_axi_rdata <= s_axi_araddr[6] ? seen[s_axi_araddr[5:2]] : settings[s_axi_araddr[5:2]];
        end
        if (m_axi_arvalid & m_axi_arready) begin arvalid <= 0; seen[0] <= now; end
        if (m_axi_awvalid & m_axi_awready) awvalid <= 0;
        if (m_axi_wvalid & m_axi_wready) begin beat <= beat + 1; beats <= beats - 1; seen[1] <= now; end
        if (m_axi_rvalid & m_axi_rready) begin
            seen[2] <= seen[2] + 1;
            if (seen[2] == 0) seen[3] <= now;
            seen[4] <= now;
            seen[5] <= m_axi_rdata[31:0];
            seen[6] <= m_axi_rdata[63:32];
            if (m_axi_rresp != 0) seen[7] <= {30'd0, m_axi_rresp};
            if (m_axi_rlast) seen[8] <= seen[8] + 1;
        end
        if (m_axi_bvalid & m_axi_bready) begin
            seen[9] <= seen[9] + 1;
            seen[10] <= now;
            seen[11] <= {30'd0, m_axi_bresp};
        end
        if (writes) begin
            s_axi_bvalid <= 1;
            for (i = 0; i < 4; i = i + 1)
                if (s_axi_wstrb[i]) settings[s_axi_awaddr[5:2]][8 * i +: 8] <= s_axi_wdata[8 * i +: 8];
            if (s_axi_awaddr == 12'h020) begin
                if (s_axi_wdata[0]) begin arvalid <= 1; seen[2] <= 0; seen[7] <= 0; seen[8] <= 0; end
                if (s_axi_wdata[1]) awvalid <= 1;
                if (s_axi_wdata[2]) begin beat <= 0; beats <= w[15:8]; end
                if (s_axi_wdata[6]) begin arvalid <= 0; awvalid <= 0; beats <= 0; end
            end
        end
        if (!aresetn) begin
            arvalid <= 0; awvalid <= 0; beats <= 0; beat <= 0; now <= 0;
            s_axi_bvalid <= 0; s_axi_rvalid <= 0;
            for (i = 0; i < 10; i = i + 1) settings[i] <= 0;
            for (i = 0; i < 16; i = i + 1) seen[i] <= 0;
        end
    end
endmodule
