// The Python shell of packing and convolving, part of bnn_kernels.cpp. Tensors come as addresses, as an array costs a
// microsecond to make.

// What lies at an address that the caller vouches for. Only nothing may lie nowhere.
template <class T>
T* at(isize address, const char* name, bool nothing) {
    if (!address && !nothing) fail(std::string(name) + " has no memory: it is no plain tensor of the CPU");
    return (T*)address;
}

// x: float32 as `sizes` say, n, c, h, w and the strides, or, with `halves`, bf16 [N][H][W][C]. bits: int64
// [N][H][W][words(C)].
void pack(const std::string& name, isize x, bool halves, const std::vector<isize>& sizes, isize bits, isize threads) {
    const bnn::Variant& v = variant_named(name);
    if (sizes.size() != 8) fail("pack takes four sizes and four strides, got " + std::to_string(sizes.size()));
    const bnn::Lying lying{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7]};
    const isize pixels = lying.n * lying.h * lying.w;
    const bool nothing = pixels == 0 || lying.c == 0;
    const void* from = at<const void>(x, "x", nothing);
    uint64_t* to = at<uint64_t>(bits, "bits", nothing);
    py::gil_scoped_release release;
    if (halves) bnn::pack_halves(v, (const uint16_t*)from, pixels, lying.c, to, threads);
    else bnn::pack_floats(v, (const float*)from, lying, to, threads);
}

bnn::Out out_named(const std::string& name) {
    if (name == "float32") return bnn::Out::float32;
    if (name == "bfloat16") return bnn::Out::bfloat16;
    if (name == "int16") return bnn::Out::int16;
    if (name == "bits") return bnn::Out::bits;
    fail("no result is \"" + name + "\"");
}

// A convolution of one geometry and kind of result, checked once, to be called with the addresses of its tensors. Calls
// on several threads share it.
class Convolution {
public:
    // strides: those of x, float32 [N][C][H][W], in elements; none where x is bits
    Convolution(const std::string& variant, const std::vector<isize>& conv, const std::string& out, bool channels_first,
                isize pool, const std::vector<isize>& strides)
        : v(variant_named(variant)), g(geometry(conv)), floats(!strides.empty()) {
        if (floats && strides.size() != 4) fail("x has four strides, got " + std::to_string(strides.size()));
        if (floats) x = {g.n, g.c, g.h, g.w, strides[0], strides[1], strides[2], strides[3]};
        kind.out = out_named(out);
        kind.channels_first = channels_first && kind.out == bnn::Out::float32;
        kind.pool = pool;
        check(kind);
        nothing = g.n == 0;
        empty = nothing || g.oh() < pool || g.ow() < pool;
    }

    void call(isize from, isize blob, isize bytes, isize to, isize scale, isize bias, isize residual, isize threshold,
              isize flip, isize threads) {
        bnn::Epilogue e = kind;
        e.scale = (const float*)scale, e.bias = (const float*)bias, e.residual = (const float*)residual;
        e.threshold = (const int32_t*)threshold, e.flip = (const uint64_t*)flip;
        e.to = at<void>(to, "the result", empty);
        check(e);
        const void* data = at<const void>(from, floats ? "x" : "bits", nothing);
        bnn::Blob b;
        const uint8_t* packed = at<const uint8_t>(blob, "prepacked weights", !bytes);
        if (const char* wrong = bnn::open_blob(v, g, packed, bytes, &b)) fail(wrong);

        py::gil_scoped_release release;
        bnn::Choice* const known = v.images ? &choice : nullptr;
        if (floats) bnn::convolve_floats(v, g, e, b, (const float*)data, x, threads, known);
        else bnn::convolve(v, g, e, b, (const uint64_t*)data, threads, known);
    }

private:
    void check(const bnn::Epilogue& e) const {
        if (const char* wrong = bnn::check(g, e))
            fail(std::string("cannot convolve: ") + wrong + "; K = " + std::to_string(g.k()));
    }

    const bnn::Variant& v;
    const bnn::Conv g;
    const bool floats;
    bnn::Lying x = {};
    bnn::Epilogue kind;
    bool nothing, empty;
    bnn::Choice choice = {};
};

void bind_convolution(py::module_& m) {
    m.def(
        "pack", pack, py::arg("variant"), py::arg("x"), py::arg("halves"), py::arg("sizes"), py::arg("bits"),
        py::arg("threads"),
        "Write the signs of x, float32 [N, C, H, W] with any strides or, with halves, bf16 [N, H, W, C], into bits,\n"
        "int64 [N, H, W, words(C)]. sizes: [n, c, h, w] and the strides of each in elements. x, bits: addresses, of\n"
        "memory that the caller has checked.");
    py::class_<Convolution>(
        m, "Convolution",
        "A convolution of one geometry. out: float32, bfloat16, int16 or bits; channels_first: float32 [N, O, H, W]\n"
        "in place of [N, H, W, O]; pool: side of a window whose largest sum is kept; strides: those of x, float32\n"
        "[N, C, H, W], in elements, or none, and x is bits, int64 [N, H, W, words(C)].")
        .def(py::init<const std::string&, const std::vector<isize>&, const std::string&, bool, isize,
                      const std::vector<isize>&>(),
             py::arg("variant"), py::arg("conv"), py::arg("out"), py::arg("channels_first"), py::arg("pool"),
             py::arg("strides"))
        .def("__call__", &Convolution::call, py::arg("x"), py::arg("blob"), py::arg("blob_bytes"), py::arg("to"),
             py::arg("scale"), py::arg("bias"), py::arg("residual"), py::arg("threshold"), py::arg("flip"),
             py::arg("threads"),
             "Convolve x with prepacked weights into to. Tensors are addresses, of memory that the caller checked, or\n"
             "0. scale, bias: float32 [O]; residual: as to; threshold: int32 [O]; flip: int64 [words(O)].");
}
