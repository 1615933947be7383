#!/bin/sh
# What only a GPU can tell, in some minutes: whether it agrees with the CPU, then how fast it is. From a checkout, with
# saccade installed or with wheels of what is missing in the folder WHEELS:
#
#     [WHEELS=...] benchmarks/gpu.sh OUT [BENCH...]
#
# Tables go to OUT/*.txt and to the screen. One benchmark that fails does not keep the others from running.
set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:?where to write the tables}
shift
[ $# -gt 0 ] || set -- agreement step end-to-end clustering
mkdir -p "$out" || exit 1
if [ -n "${WHEELS:-}" ]; then
    python3 -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl || exit 1
fi
failed=0
for bench; do
    case $bench in
        clustering) options="--seeds 1" ;;  # The published setting takes a minute of a core for each seed.
        *) options="--device cuda" ;;
    esac
    # shellcheck disable=SC2086 # Options are several words.
    timeout 420 python3 -m saccade.cli bench $bench $options >"$out/$bench.txt" 2>"$out/$bench.err"
    code=$?
    cat "$out/$bench.txt"
    if [ $code -ne 0 ]; then
        echo "saccade bench $bench $options ended with $code:"
        tail -n 5 "$out/$bench.err"
        failed=1
    fi
    echo
done
exit $failed
