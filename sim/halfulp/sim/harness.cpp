// The Verilated core with its clock, a register bus and a memory, behind a C interface.
//
// One handle is one core in its own VerilatedContext: handles share nothing and may run in different threads.
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "Vcore.h"
#include "axi_memory.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif
#if DIRECT_EVALUATION
#include "Vcore___024root.h"

void Vcore___024root___eval_ico(Vcore___024root*);
void Vcore___024root___eval_nba(Vcore___024root*);
#endif

#if COUNTING
extern "C" void __gcov_dump();  // of libgcov: writes what has been counted
#endif

namespace {

enum Status : int { limit_reached = 0, interrupted = 1, violated = 2, no_answer = 3, bus_error = 4 };

constexpr unsigned reset_clocks = 16;
constexpr unsigned register_clocks = 1000;  // a register that has not answered by then never will

class Simulation {
    struct Context : VerilatedContext {
        // The model looks at this when it is constructed.
        Context() { traceEverOn(VM_TRACE); }
    };

    Context context_;
    Vcore core_;
    AxiMemory<Vcore> memory_;
    uint64_t cycles_ = 0;
    const char* message_ = "";
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> trace_;
#endif

    void dump(unsigned half) {
#if VM_TRACE
        if (trace_) trace_->dump(cycles_ * 10 + half * 5);
#else
        (void)half;
#endif
    }

    // Let the outputs follow the inputs.
    void settle() {
#if DIRECT_EVALUATION
        // What `eval` does in the low half of the clock, less looking for edges.
        core_.rootp->__VicoTriggered[0] = ~uint64_t{0};
        Vcore___024root___eval_ico(core_.rootp);
#else
        core_.aclk = 0;
        core_.eval();
#endif
    }

    // The rising edge: registers, and outputs that follow them.
    void rise() {
#if DIRECT_EVALUATION
        core_.rootp->__VnbaTriggered[0] = ~uint64_t{0};
        Vcore___024root___eval_nba(core_.rootp);
#else
        core_.aclk = 1;
        core_.eval();
#endif
    }

    // From the state after one rising edge to that after the next. `settled` sees the ports just before the edge.
    template <class Settled>
    void clock(Settled settled) {
        settle();
        dump(0);
        settled();
        memory_.sample(core_, cycles_);
        rise();
        dump(1);
        memory_.drive(core_, ++cycles_);
    }
    void clock() {
        clock([] {});
    }

    Status fail(Status status, const char* message) {
        message_ = message;
        return status;
    }

    Status check() {
        const char* violation = memory_.violation();
        return violation[0] ? fail(violated, violation) : limit_reached;
    }

public:
    Simulation(uint8_t* bytes, uint64_t size, uint64_t base, const MemoryTiming& timing)
        : core_(&context_), memory_(bytes, size, base, timing) {
        core_.aclk = core_.s_axi_awprot = core_.s_axi_arprot = 0;
        core_.eval();  // initial values
        reset();
    }
    ~Simulation() {
        close_trace();
        core_.final();
    }

    void reset() {
        core_.s_axi_arvalid = core_.s_axi_awvalid = core_.s_axi_wvalid = 0;
        core_.s_axi_rready = core_.s_axi_bready = 0;
        core_.aresetn = 0;
        for (unsigned i = 0; i < reset_clocks; ++i) {
            clock();
            memory_.reset(core_);
        }
        core_.aresetn = 1;
        clock();
    }

    // Verilator renames the port `interrupt`, which is a word of some C++ compilers.
    bool interrupt() const { return core_.__SYM__interrupt; }

    Status run(uint64_t clocks) {
        for (uint64_t end = cycles_ + clocks; cycles_ != end; clock())
            if (interrupt()) {
                const Status status = check();
                return status == violated ? violated : interrupted;
            }
        const Status status = check();
        return status == limit_reached && interrupt() ? interrupted : status;
    }

    Status advance(uint64_t clocks) {
        for (uint64_t end = cycles_ + clocks; cycles_ != end;) clock();
        return check();
    }

    Status read(uint32_t offset, uint32_t* value) {
        core_.s_axi_araddr = offset;
        core_.s_axi_arvalid = core_.s_axi_rready = 1;
        bool asked = false, answered = false;
        unsigned response = 0;
        for (unsigned i = 0; i < register_clocks && !answered; ++i) {
            clock([&] {
                asked = core_.s_axi_arvalid && core_.s_axi_arready;
                answered = core_.s_axi_rvalid;
                *value = core_.s_axi_rdata;
                response = core_.s_axi_rresp;
            });
            if (asked) core_.s_axi_arvalid = 0;
        }
        core_.s_axi_arvalid = core_.s_axi_rready = 0;
        return finish(answered, response);
    }

    Status write(uint32_t offset, uint32_t value, uint32_t strobes) {
        core_.s_axi_awaddr = offset;
        core_.s_axi_wdata = value;
        core_.s_axi_wstrb = strobes;
        core_.s_axi_awvalid = core_.s_axi_wvalid = core_.s_axi_bready = 1;
        bool addressed = false, written = false, answered = false;
        unsigned response = 0;
        for (unsigned i = 0; i < register_clocks && !answered; ++i) {
            clock([&] {
                addressed = core_.s_axi_awvalid && core_.s_axi_awready;
                written = core_.s_axi_wvalid && core_.s_axi_wready;
                answered = core_.s_axi_bvalid;
                response = core_.s_axi_bresp;
            });
            if (addressed) core_.s_axi_awvalid = 0;
            if (written) core_.s_axi_wvalid = 0;
        }
        core_.s_axi_awvalid = core_.s_axi_wvalid = core_.s_axi_bready = 0;
        return finish(answered, response);
    }

    Status finish(bool answered, unsigned response) {
        if (!answered) return fail(no_answer, "the register bus does not answer");
        if (response != 0) return fail(bus_error, "the register bus answered with an error");
        return check();
    }

    bool open_trace(const char* path) {
#if VM_TRACE
        close_trace();
        trace_ = std::make_unique<VerilatedVcdC>();
        core_.trace(trace_.get(), 99);
        trace_->open(path);
        return trace_->isOpen();
#else
        (void)path;
        return false;
#endif
    }
    void close_trace() {
#if VM_TRACE
        if (trace_) trace_->close();
        trace_.reset();
#endif
    }

    AxiMemory<Vcore>& memory() { return memory_; }
    uint64_t cycles() const { return cycles_; }
    const char* message() const { return message_; }
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Simulation* core_open(uint8_t* bytes, uint64_t size, uint64_t base, const MemoryTiming* timing) {
    return new (std::nothrow) Simulation(bytes, size, base, *timing);
}
EXPORT void core_close(Simulation* s) {
    delete s;
#if COUNTING
    __gcov_dump();
#endif
}
EXPORT void core_reset(Simulation* s) { s->reset(); }
EXPORT int core_read(Simulation* s, uint32_t offset, uint32_t* value) { return s->read(offset, value); }
EXPORT int core_write(Simulation* s, uint32_t offset, uint32_t value, uint32_t strobes) {
    return s->write(offset, value, strobes);
}
// Until the interrupt line is high, at most so many clocks.
EXPORT int core_run(Simulation* s, uint64_t clocks) { return s->run(clocks); }
EXPORT int core_advance(Simulation* s, uint64_t clocks) { return s->advance(clocks); }
EXPORT uint64_t core_cycles(const Simulation* s) { return s->cycles(); }
EXPORT int core_interrupt(const Simulation* s) { return s->interrupt(); }
EXPORT uint32_t core_pending(Simulation* s) { return s->memory().pending(); }
EXPORT void core_inject(Simulation* s, uint64_t begin, uint64_t end, int response, int on_read, int on_write) {
    s->memory().inject(begin, end, static_cast<Response>(response), on_read, on_write);
}
EXPORT void core_clear_faults(Simulation* s) { s->memory().clear_faults(); }
EXPORT int core_open_trace(Simulation* s, const char* path) { return s->open_trace(path); }
EXPORT void core_close_trace(Simulation* s) { s->close_trace(); }
// Of the last call that did not succeed; valid until the next call.
EXPORT const char* core_message(const Simulation* s) { return s->message(); }
