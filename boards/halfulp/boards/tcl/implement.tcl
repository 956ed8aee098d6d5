# Synthesis, place and route, and the overlay: a bitstream and the hand-off file of the same name.

set design $halfulp(design)
add_files -norecurse [make_wrapper -files [get_files $design.bd] -top]
set_property top ${design}_wrapper [current_fileset]
update_compile_order -fileset sources_1

proc run_to_end {name what args} {
    global jobs work
    announce $what
    launch_runs $name {*}$args -jobs $jobs
    wait_on_run $name
    if {[get_property PROGRESS [get_runs $name]] ne "100%"} {
        set folder [get_property DIRECTORY [get_runs $name]]
        error "$what failed: [get_property STATUS [get_runs $name]] (log: [file join $folder runme.log])"
    }
}

run_to_end synth_1 "synthesis"
run_to_end impl_1 "place and route" -to_step write_bitstream

announce "reports"
open_run impl_1
report_utilization -file [file join $here utilization.txt]
report_timing_summary -file [file join $here timing.txt]
foreach {slack what} {STATS.WNS set-up STATS.WHS hold} {
    set ns [get_property $slack [get_runs impl_1]]
    if {![string is double -strict $ns] || $ns < 0} {
        error "timing is not met at $halfulp(clock_mhz) MHz: the worst $what slack is $ns ns (timing.txt has the paths)"
    }
}

set handoff [file join $work project $design.gen sources_1 bd $design hw_handoff $design.hwh]
set bitstream [file join [get_property DIRECTORY [get_runs impl_1]] ${design}_wrapper.bit]
foreach file [list $bitstream $handoff] {
    if {![file isfile $file]} {
        error "Vivado made no $file"
    }
}
set overlay [file join $here overlay]
file mkdir [file join $work overlay]
file copy -force $bitstream [file join $work overlay $design.bit]
file copy -force $handoff [file join $work overlay $design.hwh]
file delete -force $overlay
file rename [file join $work overlay] $overlay
