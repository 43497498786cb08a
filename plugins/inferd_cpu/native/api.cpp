// The C interface of the library, for ctypes. Python checks arguments; nothing here throws.
#include <cstdio>
#include <cstring>
#include <new>

#include "encoder.h"
#include "ggml_small.h"
#include "model.h"
#include "sampling.h"

using namespace inferd;

#define EXPORT extern "C" __attribute__((visibility("default")))

// Changes with every change of a function or struct below: a library of another build is not used.
constexpr int kInterface = 17;

EXPORT int inferd_interface() { return kInterface; }

// The kernels of that name, or the best ones of this processor for "auto". Null when there are none: *why says why.
EXPORT const void* inferd_kernels(const char* isa, const char** why) { return choose_kernels(isa, why); }
EXPORT const char* inferd_kernels_name(const void* kernels) { return static_cast<const Kernels*>(kernels)->name; }
EXPORT const char* inferd_kernels_description(const void* kernels) {
  return static_cast<const Kernels*>(kernels)->description;
}

// The lists of vectors that ggml's smallest formats choose from, as ggml_small.h says. To be called first.
EXPORT void inferd_set_grids(const int8_t* numbers) { set_grids(numbers); }

EXPORT int inferd_can_pack(int ggml_type) { return can_pack(ggml_type); }
EXPORT int inferd_natural_weight(int ggml_type) { return static_cast<int>(natural_weight(ggml_type)); }
EXPORT const char* inferd_pack_message(int error) { return pack_message(error); }
EXPORT size_t inferd_packed_bytes(const void* kernels, int format, int n, int k) {
  return static_cast<const Kernels*>(kernels)->packed_bytes(static_cast<Weight>(format), n, k);
}
EXPORT size_t inferd_pool_bytes(const Shape* shape) { return Model::pool_bytes(*shape); }
EXPORT size_t inferd_workspace_bytes(const Shape* shape, const void* kernels) {
  return Model::workspace_bytes(*shape, *static_cast<const Kernels*>(kernels));
}

// A model without weights; null when its memory cannot be had. `formats` as Model::take_memory.
EXPORT void* inferd_open(const Shape* shape, const void* kernels, const int32_t* formats, size_t vector_floats,
                         int experts_file) {
  Model* model = new (std::nothrow) Model(*shape, *static_cast<const Kernels*>(kernels));
  if (model && !model->take_memory(formats, vector_floats, experts_file)) {
    delete model;
    model = nullptr;
  }
  return model;
}
EXPORT void inferd_close(void* model) { delete static_cast<Model*>(model); }

// How much each of the k inputs of a tensor of n rows counts; `counts` is given to inferd_pack. Returns a PackError.
EXPORT int inferd_weigh_inputs(void* model, int type, const void* blocks, int n, int k, float* counts) {
  return static_cast<Model*>(model)->weigh_inputs(type, blocks, n, k, counts);
}
EXPORT int inferd_pack(void* model, int part, int layer, int source, int expert, int type, const void* blocks,
                       const int32_t* order, const float* counts) {
  return static_cast<Model*>(model)->pack(part, layer, source, expert, type, blocks, order, counts);
}
EXPORT void inferd_set_vector(void* model, int vector, int layer, const float* numbers, int count) {
  static_cast<Model*>(model)->set_vector(vector, layer, numbers, count);
}

// The weights are there. From now on pages of the KV pool are taken, in the background.
EXPORT void inferd_fill_pool(void* model) { static_cast<Model*>(model)->fill_pool(); }

// Rows of a slot are changed so from the next step on, or null: no more. `changes` stays. 1 where there is no memory.
EXPORT int inferd_set_adapter(void* model, int slot, const Change* changes) {
  return static_cast<Model*>(model)->set_adapter(slot, changes) ? 0 : 1;
}

// 0 when done; 1 when the batch is not sound: nothing has changed.
EXPORT int inferd_step(void* model, const Step* step) {
  Model& m = *static_cast<Model*>(model);
  if (!m.is_sound(*step)) return 1;
  m.compute(*step);
  return 0;
}
EXPORT size_t inferd_block_bytes(const Shape* shape, int windows) { return Model::block_bytes(*shape, windows != 0); }
EXPORT void* inferd_block(void* model, int number) { return static_cast<Model*>(model)->block(number); }
EXPORT void inferd_copy_blocks(void* model, const int32_t* pairs, int count) {
  static_cast<Model*>(model)->copy_blocks(pairs, count);
}

// The choice of tokens alone, for tests.
EXPORT int inferd_choose_token(const void* kernels, const float* logits, int size, float temperature, int64_t top_k,
                               double top_p, double min_p, double point, float* weights, int32_t* order) {
  const char* name = static_cast<const Kernels*>(kernels)->name;
  const inferd::Choice choice{temperature, top_k, top_p, min_p, point};
  return inferd::choose_token(choose_norms(name), logits, size, choice, weights, order);
}

// Encoders, as encoder.h has them.
EXPORT size_t inferd_encoder_bytes(const EncoderShape* shape, const void* kernels) {
  return Encoder::workspace_bytes(*shape, *static_cast<const Kernels*>(kernels));
}
EXPORT void* inferd_encoder_open(const EncoderShape* shape, const void* kernels, const int32_t* formats,
                                 size_t vector_floats) {
  Encoder* encoder = new (std::nothrow) Encoder(*shape, *static_cast<const Kernels*>(kernels));
  if (encoder && !encoder->take_memory(formats, vector_floats)) {
    delete encoder;
    encoder = nullptr;
  }
  return encoder;
}
EXPORT void inferd_encoder_close(void* encoder) { delete static_cast<Encoder*>(encoder); }
EXPORT int inferd_encoder_pack(void* encoder, int part, int layer, int source, int type, const void* blocks,
                               const int32_t* order) {
  return static_cast<Encoder*>(encoder)->pack(part, layer, source, type, blocks, order);
}
EXPORT void inferd_encoder_set(void* encoder, int vector, int layer, const float* numbers, int count) {
  static_cast<Encoder*>(encoder)->set_vector(vector, layer, numbers, count);
}

// 0 when done; 1 when the step is not sound: nothing has changed.
EXPORT int inferd_encode(void* encoder, const EncoderStep* step) {
  Encoder& e = *static_cast<Encoder*>(encoder);
  if (!e.is_sound(*step)) return 1;
  e.compute(*step);
  return 0;
}
