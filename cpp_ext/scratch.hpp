// Memory for one call, kept between calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace fetalclip {

// Bytes aligned for the widest registers. Grows, never shrinks; growing loses the contents.
class AlignedBuffer {
 public:
  std::uint8_t* at_least(std::size_t bytes) {
    if (bytes > bytes_) {
      memory_.reset(static_cast<std::uint8_t*>(::operator new(bytes, kAlignment)));
      bytes_ = bytes;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::uint8_t* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<std::uint8_t, Free> memory_;
  std::size_t bytes_ = 0;
};

struct Scratch {
  AlignedBuffer packed;  // one row of colour pixels with odd strides
  AlignedBuffer planes;  // 16 rows of grey, or of each channel
  AlignedBuffer quads;   // 16 rows as quads
  AlignedBuffer ring;    // rows resized horizontally, as quads
  AlignedBuffer row;     // one output row
  std::vector<const std::uint8_t*> row_quads;
};

// Hands each call a scratch of its own.
class ScratchPool {
 public:
  class Lease {
   public:
    explicit Lease(ScratchPool& pool) : pool_(pool), scratch_(pool.take()) {}
    ~Lease() { pool_.put_back(std::move(scratch_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Scratch& operator*() { return *scratch_; }

   private:
    ScratchPool& pool_;
    std::unique_ptr<Scratch> scratch_;
  };

 private:
  std::unique_ptr<Scratch> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) {
      idle_.reserve(++made_);  // so that putting back never allocates
      return std::make_unique<Scratch>();
    }
    std::unique_ptr<Scratch> scratch = std::move(idle_.back());
    idle_.pop_back();
    return scratch;
  }

  void put_back(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(scratch));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> idle_;
  std::size_t made_ = 0;
};

}  // namespace fetalclip
