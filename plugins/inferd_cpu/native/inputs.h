// How much the inputs of a matrix count when its weights are quantised to 4 bits.
//
// Some inputs of queries, keys and values, and of gate and up, are many times as large as the others
// (arXiv:2402.17762), and multiply what quantising loses of their weights. Training leaves these weights small. So an
// input counts by how much smaller its squared weights are than the average, to the third power: from 1 to 512.
#pragma once

namespace inferd {

// Sets out[first, end) to the sums of squares of the columns of a matrix of n outputs and k inputs; both bounds are
// multiples of 32. The type is one that find_format knows, and k a multiple of its block.
void sum_squares(int ggml_type, const void* blocks, int n, int k, int first, int end, float* out);

// Makes of the sums of all k columns how much each counts.
void weigh_sums(int k, float* sums);

}  // namespace inferd
