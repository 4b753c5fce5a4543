// The two gradients of a convolution of signs (dilation 1, one group), from the gradient dy of its result, in bf16:
//
//   dx[n][y][x][c] = sum over o, i, j of scale[o] dy[n][(y + ph - i) / sh][(x + pw - j) / sw][o] w[o][i][j][c]
//   dw[o][i][j][c] = sum over n, y, x of dy[n][y][x][o] s[n][y sh + i - ph][x sw + j - pw][c]
//
// w and s are -1 and +1; what lies outside adds nothing, and nor does a tap where a quotient is not whole. amx.h
// multiplies, lookup.h looks sums up. For other convolutions PyTorch computes the gradients.
#pragma once
#include "isa/variant.h"

namespace bnn {

// The gradients that one instruction set computes.
struct Gradients {
    const char* name;
    const char* variants;               // how the names of the variants begin that go with it
    bool strided;                       // whether it takes strides above 1
    bool (*supported)();
    // dy: [N][OH][OW][O]; weights: [O][kh][kw][words(C)]; scale: [O]; dx: bf16 [N][H][W][C].
    void (*of_input)(const Conv& g, const uint16_t* dy, const uint64_t* weights, const float* scale, uint16_t* dx,
                     isize threads);
    // signs: [N][H][W][words(C)]; dw: [O][kh][kw][C].
    void (*of_weight)(const Conv& g, const uint16_t* dy, const uint64_t* signs, float* dw, isize threads);
};

// all_gradients: those of this program, best first, with one without a name at the end. find_gradients: the best that
// go with the variant of this name and run on this CPU, or null. gradients_named: those of this name, or null. all.h
// defines them.
extern const Gradients all_gradients[];
const Gradients* find_gradients(const char* variant);
const Gradients* gradients_named(const char* name);

// Returns null, or why these do not compute the gradients of the convolution.
inline const char* check_gradient(const Gradients& by, const Conv& g) {
    if (g.dh != 1 || g.dw != 1 || g.groups != 1) return "its gradients need dilation 1 and one group";
    if (!by.strided && (g.sh != 1 || g.sw != 1)) return "its gradients need stride 1 here";
    return nullptr;
}

}  // namespace bnn
