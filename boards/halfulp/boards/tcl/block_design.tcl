# Processor, core, and between them: one SmartConnect to the registers, one to the memory (where it translates AXI4 into
# the AXI3 of a Zynq-7000), an interrupt controller, which PYNQ wants, and the reset's synchroniser. One clock.

proc only {what path found} {
    if {[llength $found] != 1} {
        error "the block design has [llength $found] of the $what $path, not 1"
    }
    return [lindex $found 0]
}
proc pin_at {path} {
    return [only pin $path [get_bd_pins -quiet $path]]
}
proc bus_at {path} {
    return [only bus $path [get_bd_intf_pins -quiet $path]]
}
proc registers_of {path} {
    return [only "address segment of" $path [get_bd_addr_segs -quiet -of_objects [bus_at $path]]]
}

create_project $halfulp(design) [file join $work project] -part $halfulp(part) -force
set found [get_board_parts -quiet $halfulp(board_part)]
if {[llength $found] == 0} {
    # Another revision of the board's files has the same memory and clocks.
    set any [join [concat [lrange [split $halfulp(board_part) :] 0 end-1] *] :]
    set found [get_board_parts -quiet -latest_file_version $any]
}
if {[llength $found] == 0} {
    error "Vivado has no board files of $halfulp(board_part): README.md tells where they come from"
}
set_property board_part [lindex $found 0] [current_project]
set_property ip_repo_paths [file join $work ip] [current_project]
update_ip_catalog

create_bd_design $halfulp(design)
set ps $halfulp(ps)
set processor [create_bd_cell -type ip -vlnv xilinx.com:ip:$halfulp(ps_cell) $ps]
apply_bd_automation -rule xilinx.com:bd_rule:$halfulp(ps_cell) -config [list {*}$halfulp(ps_automation)] $processor
# After the board's preset, which opens ports that nothing here connects.
set_property -dict [list {*}$halfulp(ps_properties)] $processor

set core $halfulp(core)
set intc $halfulp(interrupt_controller)
create_bd_cell -type ip -vlnv $halfulp(core_vlnv) $core
create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset_0
set_property -dict {CONFIG.C_IRQ_CONNECTION 1} [create_bd_cell -type ip -vlnv xilinx.com:ip:axi_intc $intc]
set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 2} \
    [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect register_bus_0]
set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} \
    [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect memory_bus_0]

set clocked [list $core/aclk $intc/s_axi_aclk reset_0/slowest_sync_clk register_bus_0/aclk memory_bus_0/aclk]
foreach name $halfulp(ps_clocked) {
    lappend clocked $ps/$name
}
foreach path $clocked {
    connect_bd_net [pin_at $ps/$halfulp(ps_clock)] [pin_at $path]
}
connect_bd_net [pin_at $ps/$halfulp(ps_reset)] [pin_at reset_0/ext_reset_in]
foreach path {register_bus_0/aresetn memory_bus_0/aresetn} {
    connect_bd_net [pin_at reset_0/interconnect_aresetn] [pin_at $path]
}
foreach path [list $core/aresetn $intc/s_axi_aresetn] {
    connect_bd_net [pin_at reset_0/peripheral_aresetn] [pin_at $path]
}

connect_bd_intf_net [bus_at $ps/$halfulp(register_port)] [bus_at register_bus_0/S00_AXI]
connect_bd_intf_net [bus_at register_bus_0/M00_AXI] [bus_at $core/s_axi]
connect_bd_intf_net [bus_at register_bus_0/M01_AXI] [bus_at $intc/s_axi]
connect_bd_intf_net [bus_at $core/m_axi] [bus_at memory_bus_0/S00_AXI]
connect_bd_intf_net [bus_at memory_bus_0/M00_AXI] [bus_at $ps/$halfulp(memory_port)]
connect_bd_net [pin_at $core/interrupt] [pin_at $intc/intr]
connect_bd_net [pin_at $intc/irq] [pin_at $ps/$halfulp(interrupt_port)]

set space [get_bd_addr_spaces $ps/Data]
assign_bd_address -offset $halfulp(core_address) -range $halfulp(register_bytes) \
    -target_address_space $space [registers_of $core/s_axi]
assign_bd_address -offset $halfulp(interrupt_address) -range $halfulp(register_bytes) \
    -target_address_space $space [registers_of $intc/s_axi]
set space [only "address space of" $core/m_axi [get_bd_addr_spaces -of_objects [bus_at $core/m_axi]]]
foreach path $halfulp(memory) {
    assign_bd_address -target_address_space $space [only "memory segment" $path [get_bd_addr_segs -quiet $ps/$path]]
}
foreach path $halfulp(not_memory) {
    foreach segment [get_bd_addr_segs -quiet $ps/$path] {
        exclude_bd_addr_seg -target_address_space $space $segment
    }
}

validate_bd_design
save_bd_design
