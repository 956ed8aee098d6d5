// A Verilated core behind a serial line, seen through its pins: bytes become levels of rx, levels of tx become bytes.
#include <cstdint>
#include <new>

#include "Vcore.h"
#include "verilated.h"

namespace {

constexpr unsigned reset_clocks = 16;
constexpr unsigned frame_bits = 10;  // start, eight of data, stop

class Board {
    VerilatedContext context_;
    Vcore core_;
    unsigned clocks_a_bit_;
    uint64_t cycles_ = 0;
    // Towards the core: what is still to be sent, the next bit lowest; clocks left of the present bit.
    uint32_t sending_ = 0;
    unsigned sending_bits_ = 0, sending_clocks_ = 0;
    // From the core: bits still to be sampled, clocks until the next one.
    uint32_t receiving_ = 0;
    unsigned receiving_bits_ = 0, receiving_clocks_ = 0;

    void clock() {
        core_.aclk = 0;
        core_.eval();
        core_.aclk = 1;
        core_.eval();
        ++cycles_;
    }

    // Whether the present byte is over; the line is at rest then.
    bool send() {
        if (sending_bits_ == 0) return true;
        core_.rx = sending_ & 1;
        if (--sending_clocks_ == 0) {
            sending_ >>= 1;
            --sending_bits_;
            sending_clocks_ = clocks_a_bit_;
        }
        return false;
    }

    // Whether a byte has come: its stop bit was sampled, and is 1.
    bool receive(uint8_t* byte) {
        if (receiving_bits_ == 0) {
            if (core_.tx == 0) {
                receiving_bits_ = frame_bits;
                receiving_clocks_ = clocks_a_bit_ / 2;
            }
            return false;
        }
        if (--receiving_clocks_ != 0) return false;
        receiving_clocks_ = clocks_a_bit_;
        receiving_ = receiving_ >> 1 | uint32_t{core_.tx} << (frame_bits - 1);
        if (--receiving_bits_ != 0) return false;
        *byte = static_cast<uint8_t>(receiving_ >> 1);
        return receiving_ >> (frame_bits - 1) & 1;
    }

public:
    explicit Board(unsigned clocks_a_bit) : core_(&context_), clocks_a_bit_(clocks_a_bit) {
        core_.aclk = core_.aresetn = 0;
        core_.rx = 1;
        for (unsigned i = 0; i < reset_clocks; ++i) clock();
        core_.aresetn = 1;
    }
    ~Board() { core_.final(); }

    // Run at most so many clocks, fewer where all bytes are sent and an answer has been followed by silence. Return
    // how many bytes were sent; `room` is that for the bytes that come, `came` how many did.
    uint32_t run(uint64_t clocks, const uint8_t* bytes, uint32_t count, uint8_t* received, uint32_t room,
                 uint32_t* came) {
        const uint64_t silence = 2 * frame_bits * clocks_a_bit_;
        uint32_t sent = 0;
        uint64_t last = cycles_;
        *came = 0;
        for (const uint64_t end = cycles_ + clocks; cycles_ != end && *came != room;) {
            if (send()) {
                core_.rx = 1;
                if (sent != count) {
                    sending_ = bytes[sent++] << 1 | 1u << (frame_bits - 1);
                    sending_bits_ = frame_bits;
                    sending_clocks_ = clocks_a_bit_;
                    send();
                } else if (*came != 0 && receiving_bits_ == 0 && cycles_ - last > silence) {
                    break;
                }
            }
            clock();
            if (receive(received + *came)) ++*came;
            if (receiving_bits_ != 0) last = cycles_;
        }
        return sent;
    }

    uint64_t cycles() const { return cycles_; }
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Board* board_open(uint32_t clocks_a_bit) { return new (std::nothrow) Board(clocks_a_bit); }
EXPORT void board_close(Board* b) { delete b; }
EXPORT uint32_t board_run(Board* b, uint64_t clocks, const uint8_t* bytes, uint32_t count, uint8_t* received,
                          uint32_t room, uint32_t* came) {
    return b->run(clocks, bytes, count, received, room, came);
}
EXPORT uint64_t board_cycles(const Board* b) { return b->cycles(); }
