# From the core's Verilog to a bitstream and its hand-off file. In this folder:
#
#     vivado -mode batch -source build.tcl -tclargs JOBS
#
# All that Vivado makes lies in the folder work, which may be deleted. The folder overlay appears when the bitstream and
# the hand-off file are both whole.

set here [file dirname [file normalize [info script]]]
set work [file join $here work]
set jobs [expr {$argc > 0 ? [lindex $argv 0] : 2}]

# Lines that begin with "halfulp:" are what the program that started Vivado looks for.
proc announce {text} {
    puts "halfulp: step: $text"
    flush stdout
}

proc build_all {} {
    uplevel #0 {
        source [file join $here settings.tcl]
        set found [version -short]
        if {![regexp {^[0-9]+\.[0-9]+} $found release] || [package vcompare $release $halfulp(least_vivado)] < 0} {
            error "Vivado $found is too old: $halfulp(least_vivado) or newer is needed"
        }
        file delete -force $work
        file mkdir $work
        announce "packaging the core"
        source [file join $here package_ip.tcl]
        announce "block design"
        source [file join $here block_design.tcl]
        source [file join $here implement.tcl]
    }
}

if {[catch build_all message]} {
    puts "halfulp: error: [lindex [split $message "\n"] 0]"
    exit 1
}
puts "halfulp: done: $overlay"
exit 0
