# The core as IP, under the vendor, library, name and version that the driver binds to.

create_project halfulp_ip [file join $work ip_project] -part $halfulp(part) -force
add_files -norecurse [file join $here $halfulp(verilog)]
set_property top $halfulp(top) [current_fileset]
update_compile_order -fileset sources_1

lassign [split $halfulp(core_vlnv) :] vendor library name version
ipx::package_project -root_dir [file join $work ip] -vendor $vendor -library $library -taxonomy /UserIP \
    -import_files -set_current true
set packaged [ipx::current_core]
set_property name $name $packaged
set_property version $version $packaged
set_property display_name $halfulp(title) $packaged
set_property description $halfulp(description) $packaged
set_property core_revision 1 $packaged

# Vivado knows the buses by the names of their ports. Clock, reset and interrupt it may not.
foreach {bus kind} {aclk clock aresetn reset interrupt interrupt} {
    if {[llength [ipx::get_bus_interfaces $bus -of_objects $packaged]] == 0} {
        ipx::infer_bus_interface $bus xilinx.com:signal:${kind}_rtl:1.0 $packaged
    }
}
foreach bus {s_axi m_axi aclk aresetn interrupt} {
    if {[llength [ipx::get_bus_interfaces $bus -of_objects $packaged]] != 1} {
        error "Vivado found no bus $bus in the core's Verilog"
    }
}
ipx::associate_bus_interfaces -busif s_axi -clock aclk $packaged
ipx::associate_bus_interfaces -busif m_axi -clock aclk $packaged
ipx::associate_bus_interfaces -clock aclk -reset aresetn $packaged
set sensitivity [ipx::add_bus_parameter -quiet SENSITIVITY [ipx::get_bus_interfaces interrupt -of_objects $packaged]]
set_property value LEVEL_HIGH $sensitivity

# The register map reaches PYNQ by way of the hand-off file.
set map [ipx::add_memory_map -quiet s_axi $packaged]
set block [ipx::add_address_block -quiet reg0 $map]
set_property base_address 0 $block
set_property range $halfulp(register_bytes) $block
set_property width 32 $block
set_property usage register $block
set_property slave_memory_map_ref s_axi [ipx::get_bus_interfaces s_axi -of_objects $packaged]
foreach {name offset access description fields} $halfulp(registers) {
    set register [ipx::add_register $name $block]
    set_property description $description $register
    set_property address_offset $offset $register
    set_property size 32 $register
    set_property access $access $register
    foreach {field_name bit_offset bit_width field_description} $fields {
        set field [ipx::add_field $field_name $register]
        set_property description $field_description $field
        set_property bit_offset $bit_offset $field
        set_property bit_width $bit_width $field
        set_property access $access $field
    }
}

# So does the configuration, with which the driver compares what the core tells of itself.
foreach {name value} $halfulp(parameters) {
    set parameter [ipx::add_user_parameter $name $packaged]
    set_property value_resolve_type user $parameter
    set_property value_format string $parameter
    set_property value $value $parameter
}

ipx::create_xgui_files $packaged
ipx::update_checksums $packaged
ipx::check_integrity -quiet $packaged
ipx::save_core $packaged
close_project
