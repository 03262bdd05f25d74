#!/usr/bin/env bash
# Runs every test of the workspace: unit, integration and documentation tests, with all features.
#
#   ./test.sh                     everything that this checkout can test
#   ./test.sh --embedded          only what needs no server; says what it left out
#   ./test.sh -- ARGUMENTS        the rest goes to `cargo test`, e.g. ./test.sh -- -p zdm-core
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

embedded=no
while [ $# -gt 0 ]; do
    case "$1" in
        --embedded) embedded=yes ;;
        --) shift; break ;;
        -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) echo "test.sh: unknown option '$1'; see ./test.sh --help" >&2; exit 2 ;;
    esac
    shift
done

selection=("$@")
if [ ${#selection[@]} -eq 0 ]; then
    selection=(--workspace)
fi

# The public suites of others lie beside the checkout, not in it.
if [ -z "${ZDM_CONFORMANCE:-}" ] && [ -d ../shared/conformance ]; then
    ZDM_CONFORMANCE=$(cd ../shared/conformance && pwd)
    export ZDM_CONFORMANCE
fi

status=0
cargo test --locked --no-fail-fast --all-features "${selection[@]}" || status=$?

if [ "$embedded" = yes ]; then
    echo "test.sh --embedded left out: nothing. No test needs a server yet, so both ways run the same tests."
fi
exit "$status"
