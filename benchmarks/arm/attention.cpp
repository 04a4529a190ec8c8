// One attention of ggml's on a CPU, by itself: HEADS KV_HEADS SIZE TOKENS CELLS f16|q8_0 TIMES [check]
// The last TOKENS of a conversation of CELLS cells look back; `check` prints the largest difference from the formula.
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

static std::vector<float> random_values(size_t num, std::mt19937 & source) {
    std::normal_distribution<float> normal;
    std::vector<float> values(num);
    for (auto & value : values) {
        value = normal(source);
    }
    return values;
}

// Values as the cache keeps them: in the tensor, and as the floats that those are.
static std::vector<float> kept(ggml_tensor * tensor, std::vector<float> values) {
    ggml_quantize_chunk(tensor->type, values.data(), tensor->data, 0, values.size() / tensor->ne[0], tensor->ne[0], nullptr);
    ggml_get_type_traits(tensor->type)->to_float(tensor->data, values.data(), values.size());
    return values;
}

int main(int argc, char ** argv) {
    if (argc < 8) {
        fprintf(stderr, "usage: attention HEADS KV_HEADS SIZE TOKENS CELLS f16|q8_0 TIMES [check]\n");
        return 2;
    }
    const int heads = atoi(argv[1]), kv_heads = atoi(argv[2]), size = atoi(argv[3]), tokens = atoi(argv[4]), cells = atoi(argv[5]);
    const ggml_type type = strcmp(argv[6], "q8_0") ? GGML_TYPE_F16 : GGML_TYPE_Q8_0;
    std::mt19937 source(7);
    ggml_context * context = ggml_init({ size_t(512) << 20, nullptr, false });
    ggml_tensor * q = ggml_new_tensor_4d(context, GGML_TYPE_F32, size, tokens, heads, 1);
    ggml_tensor * k = ggml_new_tensor_4d(context, type, size, cells, kv_heads, 1);
    ggml_tensor * v = ggml_new_tensor_4d(context, type, size, cells, kv_heads, 1);
    ggml_tensor * mask = ggml_new_tensor_4d(context, GGML_TYPE_F16, cells, tokens, 1, 1);
    const auto queries = random_values(size_t(size) * tokens * heads, source);
    memcpy(q->data, queries.data(), queries.size() * sizeof(float));
    const auto keys = kept(k, random_values(size_t(size) * cells * kv_heads, source));
    const auto values = kept(v, random_values(size_t(size) * cells * kv_heads, source));
    const auto num_seen = [&](int token) { return cells - tokens + token + 1; };
    for (int token = 0; token < tokens; token++) {
        for (int cell = 0; cell < cells; cell++) {
            ((ggml_fp16_t *) mask->data)[token * cells + cell] = ggml_fp32_to_fp16(cell < num_seen(token) ? 0.0f : -INFINITY);
        }
    }
    const float scale = 1.5f / sqrtf(size);
    ggml_cgraph * graph = ggml_new_graph(context);
    ggml_tensor * out = nullptr;
    for (int i = 0; i < atoi(argv[7]); i++) {
        out = ggml_flash_attn_ext(context, q, k, v, mask, scale, 0, 0);
        ggml_build_forward_expand(graph, out);
    }
    ggml_graph_compute_with_ctx(context, graph, 1);
    if (argc == 8) {
        return 0;
    }
    double worst = 0;
    std::vector<double> weights(cells);
    for (int head = 0; head < heads; head++) {
        const float * own_keys = &keys[size_t(head / (heads / kv_heads)) * cells * size];
        const float * own_values = &values[size_t(head / (heads / kv_heads)) * cells * size];
        for (int token = 0; token < tokens; token++) {
            double total = 0;
            for (int cell = 0; cell < num_seen(token); cell++) {
                double score = 0;
                for (int i = 0; i < size; i++) {
                    score += double(queries[size_t(head * tokens + token) * size + i]) * own_keys[cell * size + i];
                }
                total += weights[cell] = exp(score * scale);
            }
            for (int i = 0; i < size; i++) {
                double sum = 0;
                for (int cell = 0; cell < num_seen(token); cell++) {
                    sum += weights[cell] * own_values[cell * size + i];
                }
                worst = std::max(worst, fabs(sum / total - ((const float *) out->data)[size_t(token * heads + head) * size + i]));
            }
        }
    }
    printf("%.2g\n", worst);
}
