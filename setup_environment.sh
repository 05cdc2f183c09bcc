#!/usr/bin/env bash
# Set everything up without make: system packages, the virtual environment .venv, the bilateral filter, and a check.
#
#     ./setup_environment.sh [--cpu] [--no-apt]
#
#     --cpu      PyTorch without CUDA, a few GB smaller: for machines without an NVIDIA GPU
#     --no-apt   install no system packages, only say which are missing
#     --help     this text
#
# On Ubuntu and Debian, as root or with sudo, it installs a C++ compiler, Python's headers and venv if they are missing.
# Everything else, SWIG too, goes into .venv, which make uses as well. It can be called again: what is there is kept.
# PYTHON names the interpreter, 3.10 or newer (python3). TORCH_INDEX_URL is where --cpu takes PyTorch from
# (https://download.pytorch.org/whl/cpu).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }
has() { command -v "$1" >/dev/null; }

cpu='' apt=yes
for option in "$@"; do
  case $option in
    --cpu) cpu=yes ;;
    --no-apt) apt='' ;;
    -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]##*/}"; exit ;;
    *) die "expected --cpu, --no-apt or --help, found '$option'" ;;
  esac
done
python=${PYTHON:-python3}
filter=wrapper/bilateralfilter
bin=$PWD/.venv/bin

# Set `packages` to the Debian packages that are missing. Python's are called after it: python3-dev, python3.12-dev.
find_missing() {
  local name=${python##*/}
  packages=()
  if ! has "$python"; then
    packages+=("$name" "$name-venv" "$name-dev")
  else
    [[ -x $bin/python ]] || "$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=("$name-venv")
    "$python" -c 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null ||
      packages+=("$name-dev")
  fi
  has "${CXX:-g++}" || packages+=(g++)
}

install_system_packages() {
  local sudo=()
  if [[ ! $apt ]] || ! has apt-get; then return; fi
  if [[ $(id -u) != 0 ]]; then
    # sudo may ask for a password only where somebody can type it.
    if ! has sudo || { [[ ! -t 0 ]] && ! sudo -n true 2>/dev/null; }; then return; fi
    sudo=(sudo)
  fi
  say "installing system packages: ${packages[*]}"
  "${sudo[@]}" apt-get update -qq || say "apt-get update failed: see above"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null ||
    say "apt-get install failed: see above"
}

find_missing
if ((${#packages[@]})); then
  install_system_packages
  find_missing
fi
advice=''
if ((${#packages[@]})); then # Bash before 4.4, as on macOS, takes an empty array for an unset variable
  advice="missing: ${packages[*]}; install them as root (apt-get install ${packages[*]}) and call $0 again"
  say "$advice"
fi

has "$python" || die "expected Python 3.10 or newer, found no $python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  die "expected Python 3.10 or newer, found $("$python" --version 2>&1); name one: PYTHON=python3.12 $0"

pip=("$bin/python" -m pip --quiet --disable-pip-version-check)
if ! "$bin/python" -m pip --version >/dev/null 2>&1; then
  "$python" -m venv --clear .venv >/dev/null || die "no virtual environment without ${python##*/}-venv"
fi
# The stamps are those of the Makefile: after this script, `make setup` has nothing to do.
if [[ requirements.txt -nt .venv/packages.stamp ]]; then
  [[ $cpu ]] || has nvidia-smi || say "no NVIDIA driver found: --cpu would install a smaller PyTorch, without CUDA"
  say "installing packages into .venv (PyTorch is large: a few minutes)"
  "${pip[@]}" install --upgrade pip
  if [[ $cpu ]]; then
    index=${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}
    grep -oE '^torch[^ ]+' requirements.txt | xargs "${pip[@]}" install --index-url "$index" ||
      say "$index has no fitting PyTorch or cannot be reached: taking PyPI's, which runs on the CPU as well"
  fi
  "${pip[@]}" install -r requirements.txt || die "the packages could not be installed: see above"
  touch .venv/packages.stamp
  rm -f .venv/filter.stamp
fi
if [[ ! -f .venv/filter.stamp || $(find $filter -type f ! -name '*.md' -newer .venv/filter.stamp) ]]; then
  say "building the bilateral filter"
  "${pip[@]}" install --force-reinstall --no-deps ./$filter ||
    die "the bilateral filter could not be built${advice:+; $advice}"
  touch .venv/filter.stamp
fi
"$bin/python" pytorch-deeplab_v3_plus/check_environment.py
say "ready: source .venv/bin/activate"
