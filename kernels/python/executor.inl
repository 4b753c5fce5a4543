// The Python shell of the executor, part of bnn_kernels.cpp: a packed network is loaded once, then run with one call.
// NumPy arrays in and out; the program comes as structured arrays, whose types and enumerations Python takes from here.

std::string shape_of(const py::array& a) {
    std::string s = std::string(py::str(a.dtype())) + " [";
    for (isize i = 0; i < a.ndim(); ++i) s += (i ? ", " : "") + std::to_string(a.shape(i));
    return s + "]";
}

struct Free {
    void operator()(uint8_t* p) const { free(p); }
};
using Block = std::unique_ptr<uint8_t, Free>;

// The names of a list of records.h, which are separated by commas.
py::list names_of(const char* list) { return py::str(list).attr("replace")(",", " ").attr("split")(); }

// The type of records whose fields, each an int64, are in `fields`.
py::dtype records_of(const char* fields) {
    const py::list names = names_of(fields);
    py::list formats, offsets;
    for (size_t i = 0; i < names.size(); ++i) formats.append("i8"), offsets.append(8 * i);
    return py::dtype(names, formats, offsets, (py::ssize_t)(8 * names.size()));
}

// Python's enumeration of a list of records.h, in its order.
void bind_names(py::module_& m, const char* name, const char* list, const char* doc) {
    py::object made = py::module_::import("enum").attr("IntEnum")(name, names_of(list), py::arg("start") = 0);
    made.doc() = doc;
    m.attr(name) = made;
}

// The records of an array of one dimension.
template <class Record>
const Record* records(const py::array& a, const char* name, const char* fields) {
    if (a.ndim() != 1) throw py::value_error(std::string(name) + " is " + shape_of(a) + ", expected one dimension");
    if (!a.dtype().equal(records_of(fields)) || !(a.flags() & py::array::c_style))
        throw py::value_error(std::string(name) + " has the wrong fields or is not contiguous");
    return (const Record*)a.data();
}

class Executor {
public:
    Executor(const std::string& variant, const py::array& slots, const py::array& ops, const py::array& stages,
             std::vector<py::array> constants, isize micro_bytes, isize chunk_bytes, std::vector<isize> outside,
             const std::set<size_t>& ours)
        : outside_(std::move(outside)) {
        std::vector<bnn::Constant> list;
        for (py::array& a : constants) {
            if (!(a.flags() & py::array::c_style)) throw py::value_error("a constant is not contiguous");
            const bool mine = ours.count(list.size());
            list.push_back({mine ? a.mutable_data() : a.data(), (isize)a.nbytes(), mine});
        }
        const bnn::NetTables tables = {records<bnn::SlotRecord>(slots, "slots", BNN_TEXT_OF(BNN_SLOT_FIELDS)),
                                       records<bnn::OpRecord>(ops, "ops", BNN_TEXT_OF(BNN_OP_FIELDS)),
                                       records<bnn::StageRecord>(stages, "stages", BNN_TEXT_OF(BNN_STAGE_FIELDS)),
                                       slots.shape(0), ops.shape(0), stages.shape(0), micro_bytes, chunk_bytes,
                                       list.data(), (isize)list.size()};
        const char* wrong = bnn::load(variant_named(variant), tables, allocate, this, &net_);
        if (wrong) throw py::value_error(std::string("cannot load the network: ") + wrong);
        for (isize s : outside_)
            if (s < 0 || s >= net_.slots || net_.slot[s].area != bnn::Area::outside)
                throw py::value_error("an array stands for no slot");
        for (isize i = 0; i < net_.slots; ++i)
            if (net_.slot[i].area == bnn::Area::outside &&
                (net_.slot[i].offset >= (isize)outside_.size() || outside_[(size_t)net_.slot[i].offset] != i))
                throw py::value_error("a slot from outside has no array");
        for (size_t i = 0; i < list.size(); ++i)
            for (isize k = 0; k < net_.ops; ++k)
                if (list[i].ours && net_.op[k].weights == list[i].at)
                    kept_.push_back(constants[i]), held_ += list[i].bytes;
        for (isize i = 0; i < net_.ops; ++i) {
            writes(net_.op[i].output);
            for (isize k = 0; k < net_.op[i].stages; ++k) {
                const bnn::NetStage& s = net_.stage[net_.op[i].first_stage + k];
                if (s.what == bnn::Do::store || s.what == bnn::Do::sign) writes(s.slot);
            }
        }
    }

    // Runs on one array for each slot from outside, in order: float32 [N, C, H, W] with any strides (those that are
    // written: contiguous as [N, H, W, C]), or int64 [N, H, W, words], contiguous.
    void run(std::vector<py::array> arrays, isize threads) {
        run_watched(std::move(arrays), threads, nullptr, nullptr);
    }

    // Runs on one thread. Seconds of processor time of each operation: what other processes take is not counted.
    std::vector<double> profile(std::vector<py::array> arrays) {
        struct Clock {
            std::vector<double> seconds;
            double last;
            static double now() {
                timespec t;
                clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
                return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
            }
            static void after(void* self, isize k) {
                Clock& c = *(Clock*)self;
                c.seconds[(size_t)k] += now() - c.last;
                c.last = now();
            }
        } clock = {std::vector<double>((size_t)net_.ops), Clock::now()};
        run_watched(std::move(arrays), 1, &Clock::after, &clock);
        return clock.seconds;
    }

    void run_watched(std::vector<py::array> arrays, isize threads, void (*watch)(void*, isize), void* context) {
        if (arrays.size() != outside_.size())
            throw py::value_error("expected " + std::to_string(outside_.size()) + " arrays, got " +
                                  std::to_string(arrays.size()));
        if (threads < 1) throw py::value_error("threads is " + std::to_string(threads) + ", expected 1 or more");
        std::vector<bnn::Outside> views;
        isize images = -1;
        for (size_t i = 0; i < arrays.size(); ++i) {
            py::array& a = arrays[i];
            const bnn::NetSlot& s = net_.slot[outside_[i]];
            const isize want[] = {s.bits ? s.h : s.c, s.bits ? s.w : s.h, s.bits ? bnn::words(s.c) : s.w};
            bool fits = a.ndim() == 4 &&
                        (s.bits ? a.dtype().equal(py::dtype::of<int64_t>()) : a.dtype().equal(py::dtype::of<float>()));
            for (int d = 0; d < 3 && fits; ++d) fits = a.shape(d + 1) == want[d];
            if (!fits)
                throw py::value_error("array " + std::to_string(i) + " is " + shape_of(a) + ", expected " +
                                      (s.bits ? "int64" : "float32") + " [N, " + std::to_string(want[0]) + ", " +
                                      std::to_string(want[1]) + ", " + std::to_string(want[2]) + "]");
            if (images < 0) images = a.shape(0);
            if (a.shape(0) != images) throw py::value_error("the arrays differ in their number of images");
            if (images == 0) continue;              // nothing to be read, and NumPy's strides mean nothing
            bnn::Outside o = {};
            o.at = (uint8_t*)(written_.count(outside_[i]) ? a.mutable_data() : a.data());
            if (s.bits) {
                if (!(a.flags() & py::array::c_style)) throw py::value_error("an array of bits is not contiguous");
            } else {
                for (int d = 0; d < 4; ++d)
                    if (a.strides(d) % 4) throw py::value_error("the strides of an array are not multiples of 4 bytes");
                o.sn = a.strides(0) / 4, o.sc = a.strides(1) / 4, o.sh = a.strides(2) / 4, o.sw = a.strides(3) / 4;
                if (written_.count(outside_[i])) {
                    const bool dense = (o.sc == 1 || s.c == 1) && (o.sw == s.c || s.w == 1) &&
                                       (o.sh == s.w * s.c || s.h == 1) && (o.sn == s.h * s.w * s.c || images <= 1);
                    if (!dense)
                        throw py::value_error("an array to be written is not contiguous in the order [N, H, W, C]");
                    o.sn = s.h * s.w * s.c;
                }
            }
            views.push_back(o);
        }
        if (images < 1) return;
        py::gil_scoped_release release;
        static thread_local bnn::Memory memory;
        if (bnn::in_forked_child) threads = 1;
        const bnn::RunPlan plan = bnn::plan_run(net_, views.data(), images, threads);
        bnn::run(net_, plan, views.data(), images, memory.need(plan.bytes), watch, context);
        if (memory.size > KEPT) memory.release();
    }

    // (bytes of prepared weights and tables, bytes of a run of this many images on this many threads).
    py::tuple memory_bytes(isize images, isize threads) const {
        std::vector<bnn::Outside> views(outside_.size());
        for (size_t i = 0; i < outside_.size(); ++i) {
            const bnn::NetSlot& s = net_.slot[outside_[i]];
            views[i] = {nullptr, s.h * s.w * s.c, s.h * s.w, s.w, 1};
        }
        const bnn::RunPlan p = bnn::plan_run(net_, views.data(), images, threads);
        return py::make_tuple(held_, p.bytes + (p.by_image ? p.threads * (p.micro + p.work) : 0));
    }

private:
    static constexpr isize KEPT = (isize)1 << 28;                   // a thread gives back an arena above this

    static void* allocate(void* self, isize bytes) {
        const isize rounded = bnn::round_up(bytes, 64);
        uint8_t* p = (uint8_t*)aligned_alloc(64, (size_t)rounded);
        if (!p) return nullptr;
        ((Executor*)self)->blocks_.emplace_back(p);
        ((Executor*)self)->held_ += rounded;
        return p;
    }

    void writes(isize slot) { if (slot >= 0 && net_.slot[slot].area == bnn::Area::outside) written_.insert(slot); }

    bnn::Net net_;
    std::vector<Block> blocks_;
    std::vector<py::array> kept_;
    std::vector<isize> outside_;
    std::set<isize> written_;
    isize held_ = 0;
};

// Whether a float32 array of four dimensions holds a NaN.
bool has_nan(const py::array& a) {
    if (a.ndim() != 4 || !a.dtype().equal(py::dtype::of<float>()))
        throw py::value_error("expected float32 [N, C, H, W], got " + shape_of(a));
    const uint8_t* at = (const uint8_t*)a.data();
    const auto row = [](const uint8_t* p, isize n, isize step) {
        bool bad = false;
        if (step == 4) for (isize i = 0; i < n; ++i) { float x; bnn::copy(&x, p + 4 * i, 4); bad |= x != x; }
        else for (isize i = 0; i < n; ++i) { float x; bnn::copy(&x, p + step * i, 4); bad |= x != x; }
        return bad;
    };
    if (a.flags() & py::array::c_style) return row(at, a.size(), 4);
    for (isize i = 0; i < a.shape(0); ++i)
        for (isize j = 0; j < a.shape(1); ++j)
            for (isize k = 0; k < a.shape(2); ++k)
                if (row(at + i * a.strides(0) + j * a.strides(1) + k * a.strides(2), a.shape(3), a.strides(3)))
                    return true;
    return false;
}

void bind_executor(py::module_& m) {
    m.attr("Slot") = records_of(BNN_TEXT_OF(BNN_SLOT_FIELDS));
    m.attr("Op") = records_of(BNN_TEXT_OF(BNN_OP_FIELDS));
    m.attr("Stage") = records_of(BNN_TEXT_OF(BNN_STAGE_FIELDS));
    bind_names(m, "SlotKind", BNN_TEXT_OF(BNN_SLOT_KINDS), "What a slot holds: Slot's kind.");
    bind_names(m, "Area", BNN_TEXT_OF(BNN_AREAS), "Where a slot lies: Slot's area.");
    bind_names(m, "Operation", BNN_TEXT_OF(BNN_OPERATIONS), "What an operation does: Op's kind.");
    bind_names(m, "Stored", BNN_TEXT_OF(BNN_STORED_WEIGHTS), "How weights are held: Op's stored.");
    bind_names(m, "Reduction", BNN_TEXT_OF(BNN_REDUCTIONS), "What is left of an axis: Op's reduction.");
    bind_names(m, "StageKind", BNN_TEXT_OF(BNN_STAGES), "What a stage does: Stage's kind.");
    m.def("has_nan", &has_nan, py::arg("x"), "Whether x, float32 [N, C, H, W] with any strides, holds a NaN.");
    py::class_<Executor>(m, "Executor", "A packed network, loaded: operations that run one after the other.")
        .def(py::init<const std::string&, const py::array&, const py::array&, const py::array&, std::vector<py::array>,
                      isize, isize, std::vector<isize>, std::set<size_t>>(),
             py::arg("variant"), py::arg("slots").noconvert(), py::arg("ops").noconvert(),
             py::arg("stages").noconvert(), py::arg("constants"), py::arg("micro_bytes"), py::arg("chunk_bytes"),
             py::arg("outside"), py::arg("ours"),
             "slots, ops, stages: one-dimensional arrays of the dtypes Slot, Op and Stage (kernels/executor/records.h "
             "says\n"
             "what the fields are). constants: contiguous arrays, which the fields name by their place. micro_bytes,\n"
             "chunk_bytes: of one image in the two areas. outside: the slots that the arrays of run() stand for, in "
             "order.\n"
             "ours: constants that may be rearranged where they lie. Raises ValueError, saying what is wrong.")
        .def("run", &Executor::run, py::arg("arrays"), py::arg("threads"),
             "Run on the arrays, one for each slot from outside, in order: float32 [N, C, H, W] with any strides "
             "(written\n"
             "ones: contiguous as [N, H, W, C]), or int64 [N, H, W, words], contiguous.")
        .def("profile", &Executor::profile, py::arg("arrays"),
             "Run on one thread; seconds of processor time of each operation.")
        .def("memory_bytes", &Executor::memory_bytes, py::arg("images"), py::arg("threads"),
             "(bytes of prepared weights and tables, bytes of a run of so many images on so many threads).");
}
