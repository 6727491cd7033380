#!/usr/bin/env bash
# Make .venv with everything in it, pip only, pinned by constraints.txt. Quick when there is nothing to do.
# Source it to get $PYTHON, and couloir and the other programs of .venv on the PATH:  . ./setup.sh
# Another interpreter: COULOIR_PYTHON=python3.12 ./setup.sh      Another place: COULOIR_VENV=~/envs/couloir ./setup.sh
# Another torch than the pinned one: COULOIR_TORCH=2.10.0 COULOIR_VENV=.venv-oldest ./setup.sh
couloir_setup() {
    local root venv wanted python candidate candidates pins
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    venv=${COULOIR_VENV:-$root/.venv}
    PYTHON=$venv/bin/python
    wanted=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum | tr ' ' '-')${COULOIR_TORCH:+-torch-$COULOIR_TORCH}
    if [ -x "$PYTHON" ] && [ -f "$venv/.couloir-$wanted" ]; then return 0; fi

    candidates=(python3.11 python3.12 python3.13 python3.10 python3)
    [ -z "${COULOIR_PYTHON:-}" ] || candidates=("$COULOIR_PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "${python:-}" ]; then
        echo "error: Python 3.10 to 3.13 with venv is needed, and none was found; set COULOIR_PYTHON=/path/to/python" >&2
        return 2
    fi
    echo "setting up $venv with $("$python" --version) (once; a few minutes)"
    [ -x "$PYTHON" ] && "$PYTHON" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv" || return 2
    # Another torch brings the Triton that it was built with, and on Linux its CUDA libraries.
    pins=$venv/constraints.txt
    if [ -n "${COULOIR_TORCH:-}" ]; then
        { grep -vE '^(torch|triton)==' "$root/constraints.txt"; echo "torch==$COULOIR_TORCH"; } >"$pins"
    else
        cp "$root/constraints.txt" "$pins"
    fi
    # One command for all, so that this torch is what every package sees.
    (cd "$root" && "$PYTHON" -m pip install -q --disable-pip-version-check -c "$pins" torch -e '.[data,export,graph,test]') || {
        echo "error: pip could not install the packages of pyproject.toml; see the lines above" >&2
        return 2
    }
    rm -f "$venv"/.couloir-*
    touch "$venv/.couloir-$wanted"
}
couloir_path() {
    local bin
    bin=$(cd "$(dirname "$PYTHON")" && pwd)
    case ":$PATH:" in *":$bin:"*) ;; *) export PATH="$bin:$PATH" ;; esac
}
couloir_setup && couloir_path || { [ "${BASH_SOURCE[0]}" = "$0" ] && exit 2 || return 2; }
