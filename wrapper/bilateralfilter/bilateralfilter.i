%module bilateralfilter

// Arrays come in through Python's buffer protocol, so that NumPy is not needed to build this; C++ exceptions become
// Python ones; other Python threads run during the computation.

%{
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bilateralfilter.hpp"

namespace {

// A number of 16 bits after IEEE 754, as a float32: those that are infinite or not a number have the largest exponent
// in both, and the others differ by a factor.
float from_float16(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000u) << 16, rest = (half & 0x7fffu) << 13;
    const std::uint32_t bits = rest >= 0x0f800000u ? rest | 0x7f800000u : rest;
    float number;
    std::memcpy(&number, &bits, sizeof number);
    if (rest < 0x0f800000u) number *= 0x1p112f;
    return sign != 0 ? -number : number;
}

// Takes an array of float32 as it is and holds its memory for as long as it lives. What is only read may also be
// strided, not aligned, of another type whose numbers float32 can hold, or a list or tuple of numbers; it is copied.
class FloatBuffer {
 public:
    FloatBuffer() = default;
    FloatBuffer(const FloatBuffer&) = delete;
    FloatBuffer& operator=(const FloatBuffer&) = delete;
    ~FloatBuffer() { release(); }

    // These set a Python error and return false if the object does not fit.
    bool acquire_input(PyObject* object, const char* name) try {
        if (PyList_Check(object) || PyTuple_Check(object)) return append_numbers(object, name);
        if (!acquire(object, name)) return false;
        if (is_float32() && is_aligned() && PyBuffer_IsContiguous(&view_, 'C')) return true;
        const bool converted = is_float32()    ? copy<float>(to_float<float>)
                               : is_format('e') ? copy<std::uint16_t>(from_float16)
                               : is_format('B') ? copy<std::uint8_t>(to_float<std::uint8_t>)
                               : is_format('b') ? copy<std::int8_t>(to_float<std::int8_t>)
                               : is_format('?') ? copy<std::uint8_t>(to_float<std::uint8_t>)
                               : is_format('H') ? copy<std::uint16_t>(to_float<std::uint16_t>)
                               : is_format('h') ? copy<std::int16_t>(to_float<std::int16_t>)
                                                : false;
        if (!converted && PyErr_Occurred() == nullptr)
            wrong_type(name, "a float32 array, or one of float16, bool or integers of 8 or 16 bits");
        return converted;
    } catch (const std::bad_alloc&) {
        PyErr_Format(PyExc_MemoryError, "%s: not enough memory", name);
        return false;
    }

    bool acquire_output(PyObject* object, const char* name) {
        if (!acquire(object, name)) return false;
        if (!is_float32()) {
            wrong_type(name, "a float32 array");
            return false;
        }
        if (!PyBuffer_IsContiguous(&view_, 'C')) {
            PyErr_Format(PyExc_ValueError,
                         "%s: expected a C-contiguous array, found other strides; pass numpy.ascontiguousarray(...)",
                         name);
            return false;
        }
        if (!is_aligned()) {
            PyErr_Format(PyExc_ValueError, "%s: expected an aligned array, found one between two places for a float32",
                         name);
            return false;
        }
        if (view_.readonly) {
            PyErr_Format(PyExc_ValueError, "%s: expected a writable array, found a read-only one", name);
            return false;
        }
        return true;
    }

    float* data() { return held_ ? static_cast<float*>(view_.buf) : copy_.data(); }
    std::size_t length() const { return held_ ? static_cast<std::size_t>(view_.len) / sizeof(float) : copy_.size(); }
    std::vector<std::int64_t> shape() const { return shape_; }

 private:
    template <class T>
    static float to_float(T number) {
        return static_cast<float>(number);
    }

    bool acquire(PyObject* object, const char* name) {
        if (!PyObject_CheckBuffer(object) || PyObject_GetBuffer(object, &view_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
            PyErr_Clear();
            const char* type = Py_TYPE(object)->tp_name;
            PyErr_Format(PyExc_TypeError,
                         "%s: expected a float32 array with the buffer protocol (such as a NumPy array), found %s%s",
                         name, type, std::strstr(type, "Tensor") != nullptr ? " (pass tensor.numpy())" : "");
            return false;
        }
        held_ = true;
        shape_.assign(view_.shape, view_.shape + view_.ndim);
        return true;
    }

    void release() {
        if (held_) PyBuffer_Release(&view_);
        held_ = false;
    }

    void wrong_type(const char* name, const char* expected) const {
        PyErr_Format(PyExc_TypeError, "%s: expected %s, found elements of %zd bytes, format '%s'", name, expected,
                     view_.itemsize, view_.format != nullptr ? view_.format : "B");
    }

    template <class T, class Convert>
    bool copy(Convert convert) {
        std::vector<T> elements(static_cast<std::size_t>(view_.len) / sizeof(T));
        if (PyBuffer_ToContiguous(elements.data(), &view_, view_.len, 'C') != 0) return false;
        release();
        copy_.resize(elements.size());
        std::transform(elements.begin(), elements.end(), copy_.begin(), convert);
        return true;
    }

    bool append_numbers(PyObject* object, const char* name) {
        if (PyList_Check(object) || PyTuple_Check(object)) {
            if (Py_EnterRecursiveCall(" in a list of numbers") != 0) return false;  // a list may contain itself
            bool appended = true;
            // Asked for anew each time, because converting a number may run code that changes the list.
            for (Py_ssize_t i = 0; appended && i < PySequence_Size(object); ++i) {
                PyObject* item = PySequence_GetItem(object, i);
                appended = item != nullptr && append_numbers(item, name);
                Py_XDECREF(item);
            }
            Py_LeaveRecursiveCall();
            return appended;
        }
        const double number = PyFloat_AsDouble(object);
        if (number == -1.0 && PyErr_Occurred() != nullptr) {
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError, "%s: expected numbers in a list, found %s", name, Py_TYPE(object)->tp_name);
            return false;
        }
        copy_.push_back(static_cast<float>(number));
        return true;
    }

    bool is_float32() const { return is_format('f'); }

    bool is_aligned() const { return reinterpret_cast<std::uintptr_t>(view_.buf) % alignof(float) == 0; }

    // Whether the elements are of that type (a character of Python's `struct`), in the machine's byte order.
    bool is_format(char type) const {
        const char* format = view_.format != nullptr ? view_.format : "B";
        const std::uint16_t one = 1;
        const char native = *reinterpret_cast<const char*>(&one) == 1 ? '<' : '>';
        if (*format == '@' || *format == '=' || *format == native) ++format;
        return format[0] == type && format[1] == 0;
    }

    Py_buffer view_{};
    bool held_ = false;
    std::vector<float> copy_;
    std::vector<std::int64_t> shape_;
};

// Takes any integer, NumPy's too.
bool to_size(PyObject* object, const char* name, std::int64_t& size) {
    PyObject* index = PyNumber_Index(object);
    if (index == nullptr) {
        PyErr_Format(PyExc_TypeError, "%s: expected an integer, found %s", name, Py_TYPE(object)->tp_name);
        return false;
    }
    int overflow = 0;
    size = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (overflow != 0) {
        PyErr_Format(PyExc_ValueError, "%s: expected a positive number below 2^63, found %R", name, object);
        return false;
    }
    return true;
}

// Takes any real number, NumPy's too.
bool to_number(PyObject* object, const char* name, double& number) {
    number = PyFloat_AsDouble(object);
    if (number == -1.0 && PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s: expected a number, found %s", name, Py_TYPE(object)->tp_name);
        return false;
    }
    return true;
}

bilateral::Operator applied(bool transpose, bool symmetric) {
    using bilateral::Operator;
    return symmetric ? Operator::symmetric : transpose ? Operator::transposed : Operator::plain;
}

class ReleasedGil {
 public:
    ReleasedGil() : state_(PyEval_SaveThread()) {}
    ReleasedGil(const ReleasedGil&) = delete;
    ReleasedGil& operator=(const ReleasedGil&) = delete;
    ~ReleasedGil() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            // Python before 3.14 ends other threads here when it exits, with glibc by an exception. That must not leave
            // a destructor, nor release buffers without Python: wait for the end of the process, as 3.14 does.
            for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }

 private:
    PyThreadState* state_;
};

}  // namespace
%}

%typemap(in) bilateral::Input (FloatBuffer buffer) {
    if (!buffer.acquire_input($input, "$1_name")) SWIG_fail;
    $1 = {"$1_name", buffer.data(), buffer.length(), buffer.shape()};
}

%typemap(in) bilateral::Output (FloatBuffer buffer) {
    if (!buffer.acquire_output($input, "$1_name")) SWIG_fail;
    $1 = {"$1_name", buffer.data(), buffer.length(), buffer.shape()};
}

%typemap(in) std::int64_t {
    if (!to_size($input, "$1_name", $1)) SWIG_fail;
}

%typemap(in) double {
    if (!to_number($input, "$1_name", $1)) SWIG_fail;
}

%typemap(in) bool {
    if (!PyBool_Check($input)) {
        PyErr_Format(PyExc_TypeError, "%s: expected True or False, found %s", "$1_name", Py_TYPE($input)->tp_name);
        SWIG_fail;
    }
    $1 = $input == Py_True;
}

%typemap(in) const std::string& (std::string text) {
    Py_ssize_t length = 0;
    const char* data = PyUnicode_Check($input) ? PyUnicode_AsUTF8AndSize($input, &length) : nullptr;
    if (data == nullptr) {
        PyErr_Format(PyExc_TypeError, "%s: expected a string, found %s", "$1_name", Py_TYPE($input)->tp_name);
        SWIG_fail;
    }
    text.assign(data, static_cast<std::size_t>(length));
    $1 = &text;
}

%typemap(out) std::vector<std::string> {
    $result = PyTuple_New(static_cast<Py_ssize_t>($1.size()));
    if ($result == nullptr) SWIG_fail;
    for (std::size_t i = 0; i < $1.size(); ++i) {
        PyObject* text = PyUnicode_FromString($1[i].c_str());
        if (text == nullptr) SWIG_fail;
        PyTuple_SET_ITEM($result, static_cast<Py_ssize_t>(i), text);
    }
}

%typemap(out) bilateral::PhaseSeconds {
    $result = Py_BuildValue("{s:d,s:d,s:d,s:d}", "build", $1.build, "splat", $1.splat, "blur", $1.blur, "slice",
                            $1.slice);
}

%exception {
    try {
        const ReleasedGil released;
        $action
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
        SWIG_fail;
    } catch (const std::bad_alloc&) {
        PyErr_SetString(PyExc_MemoryError, "$name: not enough memory");
        SWIG_fail;
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        SWIG_fail;
    }
}

%feature("kwargs");
%feature("docstring") bilateralfilter
"Filter the channels of one image with a Gaussian kernel over position and colour, unnormalised.

The arguments are arrays as of bilateralfilter_batch.

Args:
    image: 3*H*W values, [3, H, W].
    in: K*H*W values, [K, H, W] or [H, W]; K, the number of channels, follows from their number.
    out: as many values, overwritten; may be `in`.
    H, W, sigma_rgb, sigma_xy, transpose: as of bilateralfilter_batch.
Raises:
    TypeError, ValueError, MemoryError: as bilateralfilter_batch does."

%feature("docstring") bilateralfilter_batch
"Filter K channels of each of N images with a Gaussian kernel over position and colour, unnormalised.

Arrays are flat or of the shape given, of float32. Inputs may also be of float16, bool or integers of 8 or 16
bits, strided, or lists or tuples of numbers, which are copied.

Args:
    images: N*3*H*W values, [N, 3, H, W], usually 0 to 255.
    ins: N*K*H*W values, [N, K, H, W].
    outs: N*K*H*W values, C-contiguous float32, overwritten; may be `ins`, but must not overlap the inputs otherwise.
    N, K, H, W: number of images and channels, height and width in pixels.
    sigma_rgb: the Gaussian's standard deviation in units of the images' values; infinite: colours do not matter.
    sigma_xy: its standard deviation in pixels; infinite: positions do not matter.
    transpose: apply the transposed operator, A'.
    symmetric: apply (A + A') / 2, whatever `transpose` is.
Raises:
    TypeError, ValueError: naming the argument, what was expected and what was found. After an error about a value
        that is not finite, outs may be partly written.
    MemoryError: if the lattice does not fit.
Source:
    Adams, Baek, Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice, 2010."

%feature("docstring") Lattice
"The lattices of N images, built once for any number of filterings.

Filterings give the numbers of bilateralfilter_batch; several Python threads may filter by the same object at once."

%feature("docstring") Lattice::Lattice
"Build the lattices; arguments and errors as of bilateralfilter_batch. The images are not needed afterwards."

%feature("docstring") Lattice::filter
"Filter K channels of each of the images; arguments and errors as of bilateralfilter_batch."

%feature("docstring") SpanningForest
"The minimum spanning trees of the pixels of N images, whose neighbours are at the right, left, top and bottom.

Values of edges are arrays [N, E], E = H (W-1) + (H-1) W, of float32: in row order, first those of the edges from each
pixel to its right, then those to the pixel below. Several Python threads may use the same object at once.

Source:
    Song et al., Learnable Tree Filter for Structure-preserving Feature Transform, NeurIPS 2019."

%feature("docstring") SpanningForest::SpanningForest
"Build the trees.

Args:
    lengths: of the edges, 0 or more; of equal ones the first counts as shorter.
    N, H, W: number of images, height and width in pixels, less than 2^30 of them.
Raises:
    TypeError, ValueError, MemoryError: as bilateralfilter_batch does; values that are not finite are not refused."

%feature("docstring") SpanningForest::filter
"Average over all pixels j of an image, for each pixel i, with the products w_ij of the weights on the path from i to j.

Args:
    ins: N*K*H*W values, [N, K, H, W].
    weights: of the edges; those outside the tree do not matter.
    outs: as many as ins, overwritten with sum_j w_ij ins_j / masses_i; may be `ins`.
    masses: N*H*W values, overwritten with sum_j w_ij.
    K: number of channels."

%feature("docstring") SpanningForest::filter_transposed
"Apply the transposed operator: outs_i = sum_j w_ij ins_j / masses_j. Arguments as of filter, which gave the masses."

%feature("docstring") SpanningForest::edge_gradient
"Differentiate by the weights the sum over i and j of gradients_i w_ij ins_j.

Args:
    ins, weights, K: as of filter.
    gradients: N*K*H*W values.
    outs: of the edges, overwritten; 0 outside the tree."

%feature("docstring") window_filter
"Sum K channels of each of N images over a window around each pixel, with Gaussian weights, unnormalised.

outs_i = sum_{j != i} w_ij (R_i + R_j) ins_j and masses_i = sum_{j != i} w_ij (R_i + R_j), with w_ij the Gaussian of
colour and position plus smoothness_weight times that of position alone.

Args:
    images: N*3*H*W values, [N, 3, H, W].
    regions: N*H*W values R, 1 inside the region of interest and 0 outside.
    ins, outs: N*K*H*W values, [N, K, H, W]; outs is overwritten.
    masses: N*H*W values, overwritten.
    N, K, H, W: number of images and channels, height and width in pixels.
    radius: reach of the window in rows and columns.
    sigma_rgb, sigma_xy, smoothness_weight, smoothness_xy: standard deviations in units of the images' values and in
        pixels; share and width of the second Gaussian.
Raises:
    TypeError, ValueError, MemoryError: as bilateralfilter_batch does; values that are not finite are not refused."

%feature("docstring") mean_field
"Mean-field inference in a fully connected CRF with Potts compatibility, for N images with K classes.

    outs  <-  softmax over k of ins,  then `iterations` times
    outs[n,k,i]  <-  softmax over k of  ins[n,k,i] + sum_m weight_m sum_j n_m(i) w_m(i,j) n_m(j) outs[n,k,j]

The appearance kernel is the lattice's, the smoothness kernel a Gaussian of position that ends after four standard
deviations; n = 1 / sqrt(sum_j w(i,j)). The sums include j = i.

Args:
    images: N*3*H*W values, [N, 3, H, W], usually 0 to 255.
    ins: N*K*H*W values, [N, K, H, W], log P up to a constant for each pixel.
    outs: N*K*H*W values, C-contiguous float32, overwritten by Q; may be `ins`, but must not overlap otherwise.
    N, K, H, W: number of images and classes, height and width in pixels.
    iterations: at least 0.
    appearance_weight, appearance_rgb, appearance_xy: weight and standard deviations in units of the images' values and
        in pixels; a kernel of weight 0 is left out.
    smoothness_weight, smoothness_xy: likewise.
Raises:
    TypeError, ValueError, MemoryError: as bilateralfilter_batch does.
Source:
    Kraehenbuehl, Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, 2011, algorithm 1."

%feature("docstring") instruction_sets
"The instruction sets for which the module has been compiled and that this machine can run, the fastest first.

The first is the one used. The filters' results do not depend on it; those of mean_field do in their last bits."

%feature("docstring") bilateralfilter_profile
"bilateralfilter_batch for benchmarks and tests: with the instruction set of that name, and timed.

Args:
    images, ins, outs, N, K, H, W, sigma_rgb, sigma_xy, transpose: as for bilateralfilter_batch.
    instruction_set: one of instruction_sets(); empty: the first.
Returns:
    A dictionary of seconds, each summed over the threads: 'build' (the lattice), 'splat', 'blur', 'slice'."

// "in" is a Python keyword; by position nothing changes.
%rename(in_) in;

%include <stdint.i>
%inline %{
void bilateralfilter(bilateral::Input image, bilateral::Input in, bilateral::Output out, std::int64_t H,
                     std::int64_t W, double sigma_rgb, double sigma_xy, bool transpose = false) {
    bilateral::filter_image({image, 1, H, W, sigma_rgb, sigma_xy}, {in, out, 1, applied(transpose, false)});
}

void bilateralfilter_batch(bilateral::Input images, bilateral::Input ins, bilateral::Output outs, std::int64_t N,
                           std::int64_t K, std::int64_t H, std::int64_t W, double sigma_rgb, double sigma_xy,
                           bool transpose = false, bool symmetric = false) {
    bilateral::filter_batch({images, N, H, W, sigma_rgb, sigma_xy}, {ins, outs, K, applied(transpose, symmetric)});
}

bilateral::PhaseSeconds bilateralfilter_profile(bilateral::Input images, bilateral::Input ins, bilateral::Output outs,
                                                std::int64_t N, std::int64_t K, std::int64_t H, std::int64_t W,
                                                double sigma_rgb, double sigma_xy, bool transpose = false,
                                                const std::string& instruction_set = "") {
    return bilateral::filter_batch({images, N, H, W, sigma_rgb, sigma_xy}, {ins, outs, K, applied(transpose, false)},
                                   instruction_set);
}

void mean_field(bilateral::Input images, bilateral::Input ins, bilateral::Output outs, std::int64_t N, std::int64_t K,
                std::int64_t H, std::int64_t W, std::int64_t iterations, double appearance_weight,
                double appearance_rgb, double appearance_xy, double smoothness_weight, double smoothness_xy) {
    bilateral::mean_field({images, N, H, W, appearance_rgb, appearance_xy}, {ins, outs, K},
                          {iterations, appearance_weight, smoothness_weight, smoothness_xy});
}

std::vector<std::string> instruction_sets() { return bilateral::instruction_sets(); }

class Lattice {
 public:
    Lattice(bilateral::Input images, std::int64_t N, std::int64_t H, std::int64_t W, double sigma_rgb, double sigma_xy)
        : lattice_({images, N, H, W, sigma_rgb, sigma_xy}) {}

    void filter(bilateral::Input ins, bilateral::Output outs, std::int64_t K, bool transpose = false,
                bool symmetric = false) const {
        lattice_.filter({ins, outs, K, applied(transpose, symmetric)});
    }

 private:
    bilateral::Lattice lattice_;
};

class SpanningForest {
 public:
    SpanningForest(bilateral::Input lengths, std::int64_t N, std::int64_t H, std::int64_t W)
        : forest_({N, H, W}, lengths) {}

    void filter(bilateral::Input ins, bilateral::Input weights, bilateral::Output outs, bilateral::Output masses,
                std::int64_t K) const {
        forest_.filter({ins, weights, K}, outs, masses);
    }

    void filter_transposed(bilateral::Input ins, bilateral::Input weights, bilateral::Input masses,
                           bilateral::Output outs, std::int64_t K) const {
        forest_.filter_transposed({ins, weights, K}, masses, outs);
    }

    void edge_gradient(bilateral::Input ins, bilateral::Input weights, bilateral::Input gradients,
                       bilateral::Output outs, std::int64_t K) const {
        forest_.edge_gradient({ins, weights, K}, gradients, outs);
    }

 private:
    bilateral::SpanningForest forest_;
};

void window_filter(bilateral::Input images, bilateral::Input regions, bilateral::Input ins, bilateral::Output outs,
                   bilateral::Output masses, std::int64_t N, std::int64_t K, std::int64_t H, std::int64_t W,
                   std::int64_t radius, double sigma_rgb, double sigma_xy, double smoothness_weight,
                   double smoothness_xy) {
    bilateral::filter_window(
        {images, regions, N, H, W, radius, sigma_rgb, sigma_xy, smoothness_weight, smoothness_xy},
        {ins, outs, masses, K});
}
%}

// The parameters' names in rloss, for calls by keyword.
%pythoncode %{
import functools


def _with_names_of_rloss(function):
    names = {"sigmargb": "sigma_rgb", "sigmaxy": "sigma_xy"}

    @functools.wraps(function)
    def renaming(*args, **kwargs):
        renamed = {names[name]: kwargs.pop(name) for name in names if name in kwargs}
        return function(*args, **kwargs, **renamed)

    return renaming


bilateralfilter = _with_names_of_rloss(bilateralfilter)
bilateralfilter_batch = _with_names_of_rloss(bilateralfilter_batch)
%}
