// A memory behind the core's AXI4 master ports, with a timing model, injected faults and a protocol checker.
//
// Reads and writes are independent. Responses come in order of the requests (the core uses one id). What the memory
// drives in a clock depends on the clocks before it only, as from registers, so the core's ports settle in one pass.
#pragma once

#include <cinttypes>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

enum class Response : uint8_t { okay = 0, slave_error = 2, decode_error = 3 };

// Given by the caller, field for field as in rtl.py.
struct MemoryTiming {
    uint32_t read_latency;   // clocks from the address to the first beat of data, at least 1
    uint32_t write_latency;  // clocks from the last beat of data to the response, at least 1
    uint32_t bandwidth;      // beats a clock in each direction, in 1/65536
    uint32_t stall;          // chance of a clock's pause on each channel, in 1/2^32
    uint32_t outstanding;    // bursts that wait in each direction
    uint32_t reserved;
    uint64_t seed;           // of the pauses
};

// First in, first out, of fixed capacity (a power of two).
template <class T, unsigned capacity>
class Ring {
    static_assert((capacity & (capacity - 1)) == 0, "the index is masked");
    T items_[capacity];
    unsigned head_ = 0;
    unsigned count_ = 0;

public:
    bool empty() const { return count_ == 0; }
    bool full() const { return count_ == capacity; }
    unsigned size() const { return count_; }
    T& front() { return items_[head_]; }
    void push(const T& item) { items_[(head_ + count_++) & (capacity - 1)] = item; }
    void pop() {
        head_ = (head_ + 1) & (capacity - 1);
        --count_;
    }
    void clear() { count_ = 0; }
};

template <class Core>
class AxiMemory {
    static constexpr unsigned bus_bytes = sizeof(Core::m_axi_rdata);
    static constexpr unsigned max_beats = 16;  // the core's own rule; AXI4 allows 256
    static constexpr unsigned capacity = 256;
    static constexpr uint32_t whole_beat = 1u << 16;

    struct Burst {
        uint64_t address;
        uint32_t beats;
        uint64_t due;
    };
    struct Beat {
        uint8_t data[bus_bytes];
        uint32_t strobes;
        bool last;
    };
    struct Answer {
        Response response;
        uint64_t due;
    };
    struct Fault {
        uint64_t begin, end;
        Response response;
        bool on_read, on_write;
    };
    // A request as it stood in a clock in which it was not taken: it must stand so in the next.
    struct Request {
        uint64_t address;
        uint8_t length, size, burst, cache, protection;
        bool operator==(const Request& r) const {
            return address == r.address && length == r.length && size == r.size && burst == r.burst &&
                   cache == r.cache && protection == r.protection;
        }
    };

    uint8_t* bytes_;
    uint64_t size_, base_;
    MemoryTiming timing_;
    uint64_t random_;
    std::vector<Fault> faults_;

    Ring<Burst, capacity> reads_, writes_;
    Ring<Beat, capacity> beats_;
    Ring<Answer, capacity> answers_;
    uint32_t read_credit_ = whole_beat, write_credit_ = whole_beat;
    Response write_response_ = Response::okay;

    // Offered by the memory and not taken in the last clock.
    bool read_waits_ = false, answer_waits_ = false;
    // Offered by the core and not taken in the last clock, and how it stood.
    bool read_held_ = false, write_held_ = false, data_held_ = false;
    Request held_read_{}, held_write_{};
    Beat held_data_{};
    char violation_[256] = "";

    // SplitMix64's output function (Steele et al. 2014), so that neighbouring seeds start far apart; never 0.
    static uint64_t scrambled(uint64_t seed) {
        uint64_t z = seed + 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        return z ? z : 1;
    }

    bool pause() {
        if (timing_.stall == 0) return false;
        random_ ^= random_ << 13;  // xorshift64, Marsaglia 2003
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        return static_cast<uint32_t>(random_ >> 32) < timing_.stall;
    }

    // A token bucket: one beat a clock at most, `bandwidth` of one on average.
    void refill(uint32_t& credit) const {
        credit += timing_.bandwidth;
        const uint32_t most = whole_beat + timing_.bandwidth - 1;
        if (credit > most) credit = most;
    }

    __attribute__((format(printf, 2, 3))) void violate(const char* format, ...) {
        if (violation_[0]) return;
        va_list values;
        va_start(values, format);
        std::vsnprintf(violation_, sizeof violation_, format, values);
        va_end(values);
    }

    Response access(uint64_t address, bool write) const {
        for (const Fault& fault : faults_)
            if (address < fault.end && address + bus_bytes > fault.begin && (write ? fault.on_write : fault.on_read))
                return fault.response;
        const bool inside = address >= base_ && address - base_ <= size_ - bus_bytes;
        return inside ? Response::okay : Response::decode_error;
    }

    void check_request(const char* channel, const Request& r, bool lock) {
        unsigned log2 = 0;
        while (1u << log2 < bus_bytes) ++log2;
        const uint64_t first = r.address & ~uint64_t{bus_bytes - 1};
        if (r.burst != 1)
            violate("%sBURST is %u at 0x%" PRIx64 ", not INCR", channel, r.burst, r.address);
        else if (r.length >= max_beats)
            violate("%sLEN is %u at 0x%" PRIx64 ": more than %u beats", channel, r.length, r.address, max_beats);
        else if (r.size != log2)
            violate("%sSIZE is %u at 0x%" PRIx64 ", not the bus's width", channel, r.size, r.address);
        else if ((first ^ (first + uint64_t{bus_bytes} * (r.length + 1u) - 1)) >> 12)
            violate("%s burst of %u beats at 0x%" PRIx64 " crosses 4 KiB", channel, r.length + 1u, r.address);
        else if (r.cache != 3 || r.protection != 0 || lock)
            violate("%sCACHE, %sPROT, %sLOCK are %u, %u, %u at 0x%" PRIx64 ", not 3, 0, 0", channel, channel, channel,
                    r.cache, r.protection, lock, r.address);
    }

    void check_held(const char* channel, bool& held, Request& before, bool valid, bool ready, const Request& now) {
        if (held && !valid)
            violate("%sVALID fell before %sREADY at 0x%" PRIx64, channel, channel, before.address);
        else if (held && !(before == now))
            violate("%s request changed before %sREADY: 0x%" PRIx64 " to 0x%" PRIx64, channel, channel, before.address,
                    now.address);
        held = valid && !ready;
        if (held) before = now;
    }

    void sample_reads(Core& core, uint64_t now) {
        if (core.m_axi_arvalid || read_held_) {
            const Request request{core.m_axi_araddr,  core.m_axi_arlen,   core.m_axi_arsize,
                                  core.m_axi_arburst, core.m_axi_arcache, core.m_axi_arprot};
            check_held("AR", read_held_, held_read_, core.m_axi_arvalid, core.m_axi_arready, request);
            if (core.m_axi_arvalid && core.m_axi_arready) {
                check_request("AR", request, core.m_axi_arlock);
                reads_.push({request.address & ~uint64_t{bus_bytes - 1}, request.length + 1u,
                             now + timing_.read_latency});
            }
        }
        if (core.m_axi_rvalid && core.m_axi_rready) {
            Burst& burst = reads_.front();
            burst.address += bus_bytes;
            if (--burst.beats == 0) reads_.pop();
        }
    }

    void sample_writes(Core& core, uint64_t now) {
        if (core.m_axi_awvalid || write_held_) {
            const Request request{core.m_axi_awaddr,  core.m_axi_awlen,   core.m_axi_awsize,
                                  core.m_axi_awburst, core.m_axi_awcache, core.m_axi_awprot};
            check_held("AW", write_held_, held_write_, core.m_axi_awvalid, core.m_axi_awready, request);
            if (core.m_axi_awvalid && core.m_axi_awready) {
                check_request("AW", request, core.m_axi_awlock);
                writes_.push({request.address & ~uint64_t{bus_bytes - 1}, request.length + 1u, 0});
            }
        }
        if (core.m_axi_wvalid || data_held_) {
            Beat beat{};
            std::memcpy(beat.data, &core.m_axi_wdata, bus_bytes);
            beat.strobes = core.m_axi_wstrb;
            beat.last = core.m_axi_wlast;
            if (data_held_ && !core.m_axi_wvalid)
                violate("WVALID fell before WREADY");
            else if (data_held_ && (beat.strobes != held_data_.strobes || beat.last != held_data_.last ||
                                    std::memcmp(beat.data, held_data_.data, bus_bytes) != 0))
                violate("WDATA, WSTRB or WLAST changed before WREADY");
            data_held_ = core.m_axi_wvalid && !core.m_axi_wready;
            if (data_held_) held_data_ = beat;
            if (core.m_axi_wvalid && core.m_axi_wready) beats_.push(beat);
        }
        if (core.m_axi_bvalid && core.m_axi_bready) answers_.pop();
        // Data may come before its address: it waits for it here.
        while (!beats_.empty() && !writes_.empty()) store(now);
    }

    void store(uint64_t now) {
        Burst& burst = writes_.front();
        const Beat& beat = beats_.front();
        const Response response = access(burst.address, true);
        if (response == Response::okay) {
            uint8_t* target = bytes_ + (burst.address - base_);
            if (beat.strobes == (uint64_t{1} << bus_bytes) - 1) {
                std::memcpy(target, beat.data, bus_bytes);
            } else {
                for (unsigned i = 0; i < bus_bytes; ++i)
                    if (beat.strobes >> i & 1) target[i] = beat.data[i];
            }
        } else if (write_response_ == Response::okay) {
            write_response_ = response;
        }
        if (beat.last != (burst.beats == 1))
            violate("WLAST is %u with %u beats to come at 0x%" PRIx64, beat.last, burst.beats, burst.address);
        burst.address += bus_bytes;
        if (--burst.beats == 0) {
            writes_.pop();
            answers_.push({write_response_, now + timing_.write_latency});
            write_response_ = Response::okay;
        }
        beats_.pop();
    }

    void drive_reads(Core& core, uint64_t now) {
        core.m_axi_arready = reads_.size() < timing_.outstanding && !pause();
        refill(read_credit_);
        if (read_waits_) return;  // a beat once offered stands until it is taken
        core.m_axi_rvalid = 0;
        if (reads_.empty() || reads_.front().due > now || read_credit_ < whole_beat || pause()) return;
        read_credit_ -= whole_beat;
        const Burst& burst = reads_.front();
        const Response response = access(burst.address, false);
        if (response == Response::okay)
            std::memcpy(&core.m_axi_rdata, bytes_ + (burst.address - base_), bus_bytes);
        else
            std::memset(&core.m_axi_rdata, 0xA5, bus_bytes);
        core.m_axi_rresp = static_cast<uint8_t>(response);
        core.m_axi_rlast = burst.beats == 1;
        core.m_axi_rvalid = 1;
    }

    void drive_writes(Core& core, uint64_t now) {
        const bool room = writes_.size() + answers_.size() < timing_.outstanding;
        core.m_axi_awready = room && !pause();
        refill(write_credit_);
        core.m_axi_wready = !beats_.full() && write_credit_ >= whole_beat && !pause();
        if (answer_waits_) return;
        core.m_axi_bvalid = !answers_.empty() && answers_.front().due <= now && !pause();
        if (core.m_axi_bvalid) core.m_axi_bresp = static_cast<uint8_t>(answers_.front().response);
    }

public:
    AxiMemory(uint8_t* bytes, uint64_t size, uint64_t base, const MemoryTiming& timing)
        : bytes_(bytes), size_(size), base_(base), timing_(timing), random_(scrambled(timing.seed)) {
        if (timing_.outstanding > capacity / 2) timing_.outstanding = capacity / 2;
    }

    // Forget what is under way and drive the ports of a memory at rest.
    void reset(Core& core) {
        reads_.clear();
        writes_.clear();
        beats_.clear();
        answers_.clear();
        read_held_ = write_held_ = data_held_ = read_waits_ = answer_waits_ = false;
        write_response_ = Response::okay;
        core.m_axi_arready = core.m_axi_rvalid = core.m_axi_awready = core.m_axi_wready = core.m_axi_bvalid = 0;
        core.m_axi_rid = core.m_axi_bid = core.m_axi_rlast = core.m_axi_rresp = core.m_axi_bresp = 0;
    }

    // Before the edge that ends clock `now`, ports settled: take part in the transfers that it makes.
    void sample(Core& core, uint64_t now) {
        read_waits_ = core.m_axi_rvalid && !core.m_axi_rready;
        answer_waits_ = core.m_axi_bvalid && !core.m_axi_bready;
        if (core.m_axi_wvalid && core.m_axi_wready) write_credit_ -= whole_beat;
        sample_reads(core, now);
        sample_writes(core, now);
    }

    // After the edge: the ports in clock `now`, which begins.
    void drive(Core& core, uint64_t now) {
        drive_reads(core, now);
        drive_writes(core, now);
    }

    void inject(uint64_t begin, uint64_t end, Response response, bool on_read, bool on_write) {
        faults_.push_back({begin, end, response, on_read, on_write});
    }
    void clear_faults() { faults_.clear(); }

    // Bursts that are not answered, and data without an address.
    unsigned pending() const { return reads_.size() + writes_.size() + answers_.size() + beats_.size(); }
    // The first breach of the protocol, empty while there is none.
    const char* violation() const { return violation_; }
};
