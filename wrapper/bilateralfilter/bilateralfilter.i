%module bilateralfilter

// Arrays come in through Python's buffer protocol, so that NumPy is not needed to build this; C++ exceptions become
// Python ones; other Python threads run during the computation.

%{
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "bilateralfilter.hpp"

namespace {

// Holds an argument's memory for as long as it lives.
class FloatBuffer {
 public:
    FloatBuffer() = default;
    FloatBuffer(const FloatBuffer&) = delete;
    FloatBuffer& operator=(const FloatBuffer&) = delete;
    ~FloatBuffer() {
        if (held_) PyBuffer_Release(&view_);
    }

    // Sets a Python error and returns false if the object is no contiguous float32 array, or is not writable though it
    // should be.
    bool acquire(PyObject* object, const char* name, bool writable) {
        if (!PyObject_CheckBuffer(object) || PyObject_GetBuffer(object, &view_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
            PyErr_Clear();
            const char* type = Py_TYPE(object)->tp_name;
            PyErr_Format(PyExc_TypeError,
                         "%s: expected a float32 array with the buffer protocol (such as a NumPy array), found %s%s",
                         name, type, std::strstr(type, "Tensor") != nullptr ? " (pass tensor.numpy())" : "");
            return false;
        }
        held_ = true;
        if (!is_float32()) {
            PyErr_Format(PyExc_TypeError, "%s: expected a float32 array, found elements of %zd bytes, format '%s'",
                         name, view_.itemsize, view_.format != nullptr ? view_.format : "B");
            return false;
        }
        if (!PyBuffer_IsContiguous(&view_, 'C')) {
            PyErr_Format(PyExc_ValueError,
                         "%s: expected a C-contiguous array, found other strides; pass numpy.ascontiguousarray(...)",
                         name);
            return false;
        }
        if (writable && view_.readonly) {
            PyErr_Format(PyExc_ValueError, "%s: expected a writable array, found a read-only one", name);
            return false;
        }
        return true;
    }

    float* data() const { return static_cast<float*>(view_.buf); }
    std::size_t length() const { return static_cast<std::size_t>(view_.len) / sizeof(float); }

 private:
    bool is_float32() const {
        const char* format = view_.format;
        if (format == nullptr || view_.itemsize != sizeof(float)) return false;
        const std::uint16_t one = 1;
        const char native = *reinterpret_cast<const char*>(&one) == 1 ? '<' : '>';
        if (*format == '@' || *format == '=' || *format == native) ++format;
        return std::strcmp(format, "f") == 0;
    }

    Py_buffer view_{};
    bool held_ = false;
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

class ReleasedGil {
 public:
    ReleasedGil() : state_(PyEval_SaveThread()) {}
    ReleasedGil(const ReleasedGil&) = delete;
    ReleasedGil& operator=(const ReleasedGil&) = delete;
    ~ReleasedGil() { PyEval_RestoreThread(state_); }

 private:
    PyThreadState* state_;
};

}  // namespace
%}

%typemap(in) bilateral::Input (FloatBuffer buffer) {
    if (!buffer.acquire($input, "$1_name", false)) SWIG_fail;
    $1 = {"$1_name", buffer.data(), buffer.length()};
}

%typemap(in) bilateral::Output (FloatBuffer buffer) {
    if (!buffer.acquire($input, "$1_name", true)) SWIG_fail;
    $1 = {"$1_name", buffer.data(), buffer.length()};
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
        PyErr_SetString(PyExc_MemoryError, "$name: not enough memory for the lattice");
        SWIG_fail;
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        SWIG_fail;
    }
}

%feature("kwargs");
%feature("docstring") bilateralfilter
"Filter one channel of one image with a Gaussian kernel over position and colour.

Args:
    image: float32 array of 3*H*W values, [3, H, W], flat or shaped; usually 0 to 255.
    in: float32 array of H*W values, [H, W].
    out: float32 array of H*W values, overwritten; must not overlap the others.
    H, W: height and width in pixels.
    sigma_rgb: the Gaussian's standard deviation in units of the image's values.
    sigma_xy: its standard deviation in pixels.
    transpose: apply the transposed operator.
Raises:
    TypeError, ValueError: naming the argument, what was expected and what was found.
    MemoryError: if the lattice does not fit."

%feature("docstring") bilateralfilter_batch
"Filter K channels of each of N images with a Gaussian kernel over position and colour, unnormalised.

Args:
    images: float32 array of N*3*H*W values, [N, 3, H, W], flat or shaped; usually 0 to 255.
    ins: float32 array of N*K*H*W values, [N, K, H, W].
    outs: float32 array of N*K*H*W values, overwritten; must not overlap the others.
    N, K, H, W: number of images and channels, height and width in pixels.
    sigma_rgb: the Gaussian's standard deviation in units of the images' values.
    sigma_xy: its standard deviation in pixels.
    transpose: apply the transposed operator.
Raises:
    TypeError, ValueError: naming the argument, what was expected and what was found. After an error about a value
        that is not finite, outs may be partly written.
    MemoryError: if the lattice does not fit.
Source:
    Adams, Baek, Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice, 2010."

%feature("docstring") instruction_sets
"The instruction sets for which the module has been compiled and that this machine can run, the fastest first.

The first is the one used; the result does not depend on it."

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
    bilateral::filter_image({image, in, out, {1, 1, H, W}, {sigma_rgb, sigma_xy, transpose}});
}

void bilateralfilter_batch(bilateral::Input images, bilateral::Input ins, bilateral::Output outs, std::int64_t N,
                           std::int64_t K, std::int64_t H, std::int64_t W, double sigma_rgb, double sigma_xy,
                           bool transpose = false) {
    bilateral::filter_batch({images, ins, outs, {N, K, H, W}, {sigma_rgb, sigma_xy, transpose}});
}

bilateral::PhaseSeconds bilateralfilter_profile(bilateral::Input images, bilateral::Input ins, bilateral::Output outs,
                                                std::int64_t N, std::int64_t K, std::int64_t H, std::int64_t W,
                                                double sigma_rgb, double sigma_xy, bool transpose = false,
                                                const std::string& instruction_set = "") {
    return bilateral::filter_batch({images, ins, outs, {N, K, H, W}, {sigma_rgb, sigma_xy, transpose}},
                                   instruction_set);
}

std::vector<std::string> instruction_sets() { return bilateral::instruction_sets(); }
%}
