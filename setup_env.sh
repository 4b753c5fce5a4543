#!/bin/sh
# Makes .venv: Python 3.11-3.14, the packages of requirements.txt (checked by hash), bnnlib editable.
#
# Does nothing, and reads no network, while .venv was finished for this very requirements.txt and folder. Anything else
# that is found there - interrupted half-way, outdated, moved - is made anew; the large packages come from uv's cache
# then. PYTHON=... chooses the interpreter, CXX=... the compiler. Every refusal is one sentence and exit status 1.
set -eu
cd "$(dirname "$0")"

fail() { echo "setup: $*" >&2; exit 1; }

# The stamp is written last and holds what the environment depends on.
stamp() { echo "in $PWD"; cat requirements.txt; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
wanted() { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of .venv/bin/python)" ]; }
if [ -x .venv/bin/python ] && stamp | cmp -s - .venv/finished && wanted; then exit 0; fi

# ---- what the machine must have ----------------------------------------------------------------------------------
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }
complete() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.11 python3.12 python3.13 python3.14 python3 python; fi
found=
for candidate in "$@"; do
    supported "$candidate" || continue
    found=${found:-$candidate}
    if complete "$candidate" && has_headers "$candidate"; then found=$candidate; break; fi
done
if [ -z "$found" ]; then
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python from 3.11 to 3.14 that runs here."
    fail "no Python from 3.11 to 3.14 is on PATH; install one, or name it: make PYTHON=/path/to/python3.11."
fi
version=$(version_of "$found")
complete "$found" || fail "$found ($version) lacks the venv module; on Debian or Ubuntu: apt-get install python3-venv."
has_headers "$found" || fail "$found ($version) lacks Python.h, which kernels need; on Debian or Ubuntu: apt-get install python3-dev."
${CXX:-g++} --version >/dev/null 2>&1 || fail "the C++ compiler ${CXX:-g++} does not run here; on Debian or Ubuntu: apt-get install g++."

# ---- the environment ---------------------------------------------------------------------------------------------
echo "setup: making .venv with Python $version: one to five minutes; the first time this downloads some gigabytes, most of them PyTorch"
base=$("$found" -c 'import sys; print(sys._base_executable)')     # $found may itself lie in the .venv that goes
rm -rf .venv
"$base" -m venv .venv || fail "$base -m venv could not make .venv (see above)."

# By the same hashes, uv comes first, which installs the rest, and what builds the packages that come as source (and
# bnnlib), so that no build environment of unpinned packages is fetched.
awk '/^(uv|setuptools|setuptools-scm|vcs-versioning|packaging)==/ {on = 1} on {print} !/\\$/ {on = 0}' \
    requirements.txt >.venv/first.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 --no-deps \
    --require-hashes -r .venv/first.txt >.venv/pip.log 2>&1 ||
    fail "could not download packages; is there a network? (pip's own words are in .venv/pip.log)"
quiet=--quiet
if [ -t 2 ]; then quiet=; fi     # uv's progress bars are for a person
# Bytecode is made now: where Python may not write it later, every start would compile PyTorch anew, some ten seconds.
.venv/bin/uv pip sync $quiet --compile-bytecode --python .venv/bin/python --require-hashes --no-build-isolation requirements.txt ||
    fail "uv could not install requirements.txt (see above); it does not read pip's settings: behind a mirror set UV_DEFAULT_INDEX."
.venv/bin/uv pip install --quiet --offline --python .venv/bin/python --no-deps --no-build-isolation --editable . ||
    fail "bnnlib itself could not be installed (see above)."

stamp >.venv/finished.tmp
mv .venv/finished.tmp .venv/finished
