// cppimport
// The Python shell: NumPy arrays in, checks, threads, the kernels, NumPy arrays out; what each layer calls takes
// addresses, as an array costs a microsecond to make. Everything it computes is in the headers. Kept free of PyTorch's
// headers so that it compiles in seconds; bnnlib/ops is what puts it under PyTorch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <time.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "calls.h"
#include "gradients/gradient.h"
#include "measure/measured.h"
#include "executor/net.h"
#include "threads.h"

namespace py = pybind11;

[[noreturn]] static void fail(const std::string& what) { throw py::value_error(what); }

static const bnn::Variant& variant_named(const std::string& name) {
    const bnn::Variant* v = bnn::find_variant(name.c_str());
    if (!v || !v->supported())
        fail("kernel variant \"" + name + "\" is " + (v ? "not supported by this CPU" : "unknown"));
    return *v;
}

namespace {

using bnn::isize;

std::string text(const std::vector<isize>& shape) {
    std::string s = "[";
    for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
    return s + "]";
}

// The data of a C-contiguous array of exactly this type and shape.
template <class T>
T* data(py::array& a, const char* name, const std::vector<isize>& shape) {
    std::vector<isize> got(a.shape(), a.shape() + a.ndim());
    if (!a.dtype().is(py::dtype::of<std::remove_const_t<T>>()) &&
        !a.dtype().equal(py::dtype::of<std::remove_const_t<T>>()))
        fail(std::string(name) + " has the wrong dtype, " + std::string(py::str(a.dtype())));
    if (got != shape) fail(std::string(name) + " has shape " + text(got) + ", expected " + text(shape));
    if (!(a.flags() & py::array::c_style)) fail(std::string(name) + " is not contiguous");
    if (std::is_const<T>::value) return (T*)a.data();
    return (T*)a.mutable_data();
}

template <class T>
T* optional_data(py::object& a, const char* name, const std::vector<isize>& shape) {
    if (a.is_none()) return nullptr;
    py::array array = py::cast<py::array>(a);
    return data<T>(array, name, shape);             // the caller's object keeps the memory alive
}

// n, h, w, c, o, kh, kw, sh, sw, ph, pw, dh, dw, groups
bnn::Conv geometry(const std::vector<isize>& v) {
    if (v.size() != 14) fail("a geometry has 14 numbers, got " + std::to_string(v.size()));
    bnn::Conv g;
    g.n = v[0], g.h = v[1], g.w = v[2], g.c = v[3], g.o = v[4], g.kh = v[5], g.kw = v[6], g.sh = v[7], g.sw = v[8];
    g.ph = v[9], g.pw = v[10], g.dh = v[11], g.dw = v[12], g.groups = v[13];
    if (const char* wrong = bnn::check(g)) fail(std::string("cannot convolve: ") + wrong + "; geometry " + text(v));
    return g;
}

py::list list_variants() {
    py::list all;
    for (const bnn::Variant* const* v = bnn::variants; *v; ++v)
        all.append(py::make_tuple((*v)->name, (*v)->needs, (*v)->supported()));
    return all;
}

isize blob_bytes(const std::string& name, const std::vector<isize>& conv) {
    return bnn::blob_bytes(variant_named(name), geometry(conv));
}

void prepack(const std::string& name, const std::vector<isize>& conv, py::array weights, py::array blob) {
    const bnn::Variant& v = variant_named(name);
    const bnn::Conv g = geometry(conv);
    const uint8_t* from = data<const uint8_t>(weights, "weights", {g.o, bnn::ceil_div(g.k(), 8)});
    uint8_t* to = data<uint8_t>(blob, "prepacked weights", {bnn::blob_bytes(v, g)});
    py::gil_scoped_release release;
    std::vector<uint8_t> scratch((size_t)bnn::prepack_scratch_bytes(g));
    bnn::prepack(v, g, from, to, scratch.data());
}

py::list list_gradients() {
    py::list all;
    for (const bnn::Gradients* g = bnn::all_gradients; g->name; ++g)
        all.append(py::make_tuple(g->name, g->supported()));
    return all;
}

// The name of the best that go with a variant, or None.
py::object gradients_of(const std::string& variant) {
    const bnn::Gradients* g = bnn::find_gradients(variant.c_str());
    return g ? py::object(py::str(g->name)) : py::object(py::none());
}

const bnn::Gradients& gradients(const std::string& name) {
    const bnn::Gradients* g = bnn::gradients_named(name.c_str());
    if (!g || !g->supported()) fail("there are no gradients \"" + name + "\" on this CPU");
    return *g;
}

bnn::Conv gradient_geometry(const bnn::Gradients& by, const std::vector<isize>& conv) {
    const bnn::Conv g = geometry(conv);
    if (const char* wrong = bnn::check_gradient(by, g)) fail(std::string(wrong) + "; geometry " + text(conv));
    return g;
}

bool computes_gradients(const std::string& name, const std::vector<isize>& conv) {
    return !bnn::check_gradient(gradients(name), geometry(conv));
}

// dy: bf16 as int16 [N][OH][OW][O]; weights: int64 [O][kh][kw][words(C)]; scale: float32 [O]; dx: as dy, [N][H][W][C].
void gradient_of_input(const std::string& name, const std::vector<isize>& conv, py::array dy, py::array weights,
                       py::array scale, py::array dx, isize threads) {
    const bnn::Gradients& by = gradients(name);
    const bnn::Conv g = gradient_geometry(by, conv);
    const uint16_t* from = (const uint16_t*)data<const int16_t>(dy, "gradient", {g.n, g.oh(), g.ow(), g.o});
    const uint64_t* w = (const uint64_t*)data<const int64_t>(weights, "weights", {g.o, g.kh, g.kw, bnn::words(g.c)});
    const float* s = data<const float>(scale, "scale", {g.o});
    uint16_t* to = (uint16_t*)data<int16_t>(dx, "result", {g.n, g.h, g.w, g.c});
    py::gil_scoped_release release;
    by.of_input(g, from, w, s, to, threads);
}

// signs: int64 [N][H][W][words(C)]; dw: float32 [O][kh][kw][C].
void gradient_of_weight(const std::string& name, const std::vector<isize>& conv, py::array dy, py::array signs,
                        py::array dw, isize threads) {
    const bnn::Gradients& by = gradients(name);
    const bnn::Conv g = gradient_geometry(by, conv);
    const uint16_t* from = (const uint16_t*)data<const int16_t>(dy, "gradient", {g.n, g.oh(), g.ow(), g.o});
    const uint64_t* x = (const uint64_t*)data<const int64_t>(signs, "signs", {g.n, g.h, g.w, bnn::words(g.c)});
    float* to = data<float>(dw, "result", {g.o, g.kh, g.kw, g.c});
    py::gil_scoped_release release;
    by.of_weight(g, from, x, to, threads);
}

// n, h, w, c, window, stride, padding
void or_pool(const std::vector<isize>& v, py::array bits, py::object flip, py::array to, isize threads) {
    if (v.size() != 7) fail("a pooling has 7 numbers, got " + std::to_string(v.size()));
    const bnn::Pool p{v[0], v[1], v[2], v[3], v[4], v[5], v[6]};
    if (const char* wrong = bnn::check(p)) fail(std::string("cannot pool: ") + wrong + "; " + text(v));
    const uint64_t* from = (const uint64_t*)data<const int64_t>(bits, "bits", {p.n, p.h, p.w, bnn::words(p.c)});
    uint64_t* out = (uint64_t*)data<int64_t>(to, "result", {p.n, p.oh(), p.ow(), bnn::words(p.c)});
    const uint64_t* f = (const uint64_t*)optional_data<const int64_t>(flip, "flip", {bnn::words(p.c)});
    py::gil_scoped_release release;
    bnn::or_pool(p, from, f, out, threads);
}

// For benchmarks. rows: int64 [O][kh * kw][words(C)], tap by tap; to: float32 [N][OH][OW][O].
void one_word(const std::vector<isize>& conv, py::array bits, py::array rows, py::array to) {
    const bnn::Conv g = geometry(conv);
    if (g.groups != 1) fail("the one-word loop knows no groups");
    const uint64_t* from = (const uint64_t*)data<const int64_t>(bits, "bits", {g.n, g.h, g.w, bnn::words(g.c)});
    const uint64_t* w = (const uint64_t*)data<const int64_t>(rows, "rows", {g.o, g.taps(), bnn::words(g.c)});
    float* out = data<float>(to, "result", {g.n, g.oh(), g.ow(), g.o});
    py::gil_scoped_release release;
    bnn::one_word(g, from, w, out);
}

py::list list_limits() {
    py::list all;
    for (const bnn::Limit* l = bnn::limits; l->name; ++l) all.append(py::make_tuple(l->name, l->what, l->supported()));
    return all;
}

double run_limit(const std::string& name, isize rounds) {
    for (const bnn::Limit* l = bnn::limits; l->name; ++l)
        if (name == l->name && l->supported()) {
            py::gil_scoped_release release;
            return l->run(rounds);
        }
    fail("no limit \"" + name + "\" on this CPU");
}

#include "python/convolution.inl"
#include "python/executor.inl"

}  // namespace

PYBIND11_MODULE(bnn_kernels, m) {
    bnn::watch_forks();
    m.doc() =
        "The native kernels. conv: [n, h, w, c, o, kh, kw, sh, sw, ph, pw, dh, dw, groups]; words(C) = ceil(C / 64).";
    m.def("variants", list_variants,
          "(name, instructions it needs, whether this CPU has them) of each variant, best first.");
    m.def("blob_bytes", blob_bytes, py::arg("variant"), py::arg("conv"),
          "Bytes of the prepacked weights of a convolution.");
    m.def(
        "prepack", prepack, py::arg("variant"), py::arg("conv"), py::arg("weights"), py::arg("blob"),
        "Write weights, uint8 [O, ceil(K / 8)], a bit each, as the variant reads them into blob, uint8 [blob_bytes].");
    bind_convolution(m);
    m.def("gradients", list_gradients, "(name, whether this CPU has them) of each kind of gradients, best first.");
    m.def("gradients_of", gradients_of, py::arg("variant"),
          "The name of the gradients that go with a variant, or None.");
    m.def("computes_gradients", computes_gradients, py::arg("gradients"), py::arg("conv"),
          "Whether these gradients are computed for a convolution.");
    m.def("gradient_of_input", gradient_of_input, py::arg("gradients"), py::arg("conv"), py::arg("dy"),
          py::arg("weights"), py::arg("scale"), py::arg("dx"), py::arg("threads"),
          "dy: bf16 as int16 [N, OH, OW, O]; weights: int64 [O, kh, kw, words(C)]; scale: float32 [O]; dx: bf16 as "
          "int16\n"
          "[N, H, W, C], written.");
    m.def("gradient_of_weight", gradient_of_weight, py::arg("gradients"), py::arg("conv"), py::arg("dy"),
          py::arg("signs"), py::arg("dw"), py::arg("threads"),
          "dy: bf16 as int16 [N, OH, OW, O]; signs: int64 [N, H, W, words(C)]; dw: float32 [O, kh, kw, C], written.");
    m.def("or_pool", or_pool, py::arg("pool"), py::arg("bits"), py::arg("flip"), py::arg("to"), py::arg("threads"),
          "Max-pool bits by OR. pool: [n, h, w, c, window, stride, padding]; flip: int64 [words(C)] or None, applied "
          "last.");
    m.def("one_word", one_word, py::arg("conv"), py::arg("bits"), py::arg("rows"), py::arg("to"),
          "The plain loop of one word at a time, for benchmarks. rows: int64 [O, kh * kw, words(C)]; to: float32\n"
          "[N, OH, OW, O].");
    m.def("limits", list_limits, "(name, what it measures, whether this CPU has it) of each limit.");
    m.def("run_limit", run_limit, py::arg("name"), py::arg("rounds"),
          "Run a limit's loop; how many products that was.");
    bind_executor(m);
}

/*
<%
import pathlib
setup_pybind11(cfg)
cfg["compiler_args"] += ["-std=c++17", "-O3", "-g0", "-fopenmp", "-ffp-contract=off", "-Wall"]
cfg["compiler_args"] += ["-fno-tree-slp-vectorize"]
cfg["linker_args"] += ["-fopenmp"]
cfg["sources"] = ["bnn_core.cpp"]
cfg["parallel"] = True
folder = pathlib.Path(filepath).parent
cfg["include_dirs"] += [str(folder)]
headers = [path for kind in ("h", "inl") for path in folder.rglob("[!.]*." + kind)]
cfg["dependencies"] = sorted(str(path.relative_to(folder)) for path in headers)
%>
*/
