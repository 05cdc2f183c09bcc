"""Build the module `bilateralfilter`: SWIG writes the wrapper, the C++ compiler the rest.

Environment:
    BILATERALFILTER_OPENMP=0    build without OpenMP even where the compiler has it
    CXX, CXXFLAGS, LDFLAGS      as usual
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# Contracted (fused) multiply-adds would round the lattice coordinates differently on different machines.
COMPILE_ARGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fvisibility=hidden"]

# On x86-64 what works is compiled once more with AVX2_ARGS; bilateralfilter.cpp chooses at run time.
ENGINES = ["engine.cpp", "spanning_tree.cpp", "window.cpp"]
AVX2_ARGS = ["-mavx2"]

X86_64_PROGRAM = """
#if !defined(__x86_64__)
#error "another processor"
#endif
int main() { return __builtin_cpu_supports("avx2") == 77; }
"""

# Compiler and linker arguments: GCC and Clang; Apple's Clang with Homebrew's libomp.
OPENMP_ARGS = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]

OPENMP_PROGRAM = """
#include <omp.h>
int main() {
    int sum = 0;
    #pragma omp parallel for num_threads(2) reduction(+ : sum)
    for (int i = 0; i < 4; ++i) sum += omp_get_num_threads() > 0;
    return sum - 4;
}
"""


def find_swig() -> str:
    """Return the path of SWIG, from PATH or from the pip package `swig` of this interpreter."""
    beside_python = shutil.which("swig", path=str(Path(sys.executable).parent))
    swig = shutil.which("swig") or shutil.which("swig4.0") or beside_python
    if swig is None:
        sys.exit("bilateralfilter: SWIG not found; run `pip install swig` or `apt-get install swig`, then build again")
    return swig


def check_wheels_can_be_made() -> None:
    """Say what is missing where pip builds in the environment itself (--no-build-isolation) with an old setuptools."""
    with_setuptools = importlib.util.find_spec("setuptools.command.bdist_wheel")
    if with_setuptools is None and importlib.util.find_spec("wheel") is None:
        sys.exit(
            f"bilateralfilter: pip needs setuptools 70.1 or later, or the package wheel, found setuptools "
            f"{setuptools.__version__} alone; run `pip install --upgrade setuptools swig`, then install again"
        )


class BuildExtensionFirst(build_py):
    """SWIG writes bilateralfilter.py, so it has to run before Python files are collected."""

    def run(self) -> None:
        self.run_command("build_ext")
        super().run()


class BuildExtension(build_ext):
    """Find SWIG wherever it is installed and use OpenMP where it works."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # The objects of an earlier build may be of another choice of OpenMP.
        self.force = True

    def find_swig(self) -> str:
        return find_swig()

    def build_extensions(self) -> None:
        find_swig()  # before minutes of compiling
        compile_args, link_args = self.openmp_args()
        for extension in self.extensions:
            extension.extra_compile_args += compile_args
            extension.extra_link_args += link_args
            extension.extra_objects = self.avx2_engines(extension)
        super().build_extensions()

    def avx2_engines(self, extension: Extension) -> list:
        """Compile ENGINES for AVX2 where the compiler can and return the objects.

        They must come after those of the sources (setuptools puts them there): of an inline function that several
        objects contain, such as the standard library's, the linker takes the first, and the baseline must not get one
        with AVX2 in it.
        """
        if not self.builds_and_runs(X86_64_PROGRAM, AVX2_ARGS, []):
            print("bilateralfilter: building for the baseline instruction set alone")
            return []
        print("bilateralfilter: building for the baseline instruction set and for AVX2")
        extension.define_macros.append(("BILATERAL_AVX2", None))
        return self.compiler.compile(
            ENGINES,
            output_dir=str(Path(self.build_temp) / "avx2"),
            macros=[("BILATERAL_TARGET", "avx2")],
            extra_postargs=[*extension.extra_compile_args, *AVX2_ARGS],
        )

    def openmp_args(self) -> tuple:
        """Return the compiler and linker arguments for OpenMP: the first that build a program which runs."""
        if os.environ.get("BILATERALFILTER_OPENMP", "1") == "0":
            print("bilateralfilter: building without OpenMP (BILATERALFILTER_OPENMP=0): one thread")
            return [], []
        for compile_args, link_args in OPENMP_ARGS:
            if self.builds_and_runs(OPENMP_PROGRAM, compile_args, link_args):
                print("bilateralfilter: building with OpenMP")
                return compile_args, link_args
        print("bilateralfilter: this compiler has no working OpenMP, building without: one thread")
        return [], []

    def builds_and_runs(self, program: str, compile_args: list, link_args: list) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.cpp"
            source.write_text(program)
            # The command that setuptools itself would use, CXX, CXXFLAGS and LDFLAGS included; run by hand to keep
            # the compiler's complaints off the screen.
            compiler = getattr(self.compiler, "compiler_so_cxx", None) or self.compiler.compiler_so
            linker = getattr(self.compiler, "linker_exe_cxx", None) or self.compiler.compiler_cxx
            objects, executable = str(source.with_suffix(".o")), str(Path(folder) / "probe")
            commands = [
                [*compiler, "-c", str(source), "-o", objects, "-std=c++17", *compile_args],
                [*linker, objects, "-o", executable, *link_args],
                [executable],
            ]
            try:
                return all(
                    subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands
                )
            except OSError:
                return False


if {"dist_info", "bdist_wheel"} & set(sys.argv):
    check_wheels_can_be_made()
setup(
    py_modules=["bilateralfilter"],
    ext_modules=[
        Extension(
            "_bilateralfilter",
            sources=["bilateralfilter.i", "bilateralfilter.cpp", *ENGINES],
            depends=[str(header) for header in sorted(Path().glob("*.hpp"))],
            language="c++",
            swig_opts=["-c++"],
            extra_compile_args=COMPILE_ARGS,
        )
    ],
    cmdclass={"build_py": BuildExtensionFirst, "build_ext": BuildExtension},
    # `setup.py install` would leave a zip file, out of which Python keeps using an earlier version's unpacked library.
    zip_safe=False,
)
