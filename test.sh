#!/usr/bin/env bash
# Set up and run every check: lint, types, import directions, tests.   ./test.sh [--fast] [pytest arguments]
# Tests run in one process per core, four at most; another number: COULOIR_TEST_JOBS=1 ./test.sh
set -euo pipefail
cd "$(dirname "$0")"
. ./setup.sh
unset PYTHONDONTWRITEBYTECODE  # Without compiled files every process of the tests compiles the project again.
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
fast=()
if [ "${1:-}" = "--fast" ]; then fast=(-m "not slow"); shift; fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check -q .
"$(dirname "$PYTHON")/lint-imports" --no-cache
# Types are checked beside the tests, which leave part of a core free.
types=$(mktemp)
"$PYTHON" -m mypy >"$types" 2>&1 &
checker=$!
trap 'kill "$checker" 2>/dev/null || true; rm -f "$types"' EXIT
status=0
"$PYTHON" -m pytest -n "${COULOIR_TEST_JOBS:-auto}" --maxprocesses 4 --dist loadfile ${fast[@]+"${fast[@]}"} "$@" || status=$?
wait "$checker" || status=$?
cat "$types"
exit "$status"
