#!/usr/bin/env bash
# All checks, in the order of their cost: format, lints, tests, documentation. Works from any directory, on a Debian machine
# that has Rust; what else the tests need is installed from Debian's packages first.
#
# Ends with the tests that were skipped and a line "N passed, N failed, N skipped". With CI=true nothing may be skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Commands that the tests call, and the packages that have them.
needs=(cc:gcc ld:binutils kill:procps mount:mount unshare:util-linux strace:strace chromium:chromium)

# Without the C library's headers there is no SQLite.
missing=()
[[ -e /usr/include/stdlib.h ]] || missing+=(libc6-dev)
for need in "${needs[@]}"; do
  type -P "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
# WebSocket clients that are not ours, of the Python that packages install for: another may come first in the path.
export BACKROOM_TEST_PYTHON=${BACKROOM_TEST_PYTHON:-/usr/bin/python3}
"$BACKROOM_TEST_PYTHON" -c 'import websocket' 2>/dev/null || missing+=(python3-websocket)
"$BACKROOM_TEST_PYTHON" -c 'import websockets' 2>/dev/null || missing+=(python3-websockets)
[[ -x $BACKROOM_TEST_PYTHON ]] || missing+=(python3)
if ((${#missing[@]})); then
  echo "== installing ${missing[*]}"
  root=()
  ((EUID == 0)) || root=(sudo)
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

export CARGO_TERM_COLOR=never
# What is missing now fails the tests that need it.
export BACKROOM_TEST_WHOLE=1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()

step() {
  local name=$1
  shift
  echo "== $name"
  local began=$SECONDS
  "$@" || failed+=("$name")
  echo "== $name: $((SECONDS - began)) s"
}

tests() {
  cargo test --locked --no-fail-fast 2>&1 | tee "$log"
}

step "format" cargo fmt --check
step "lints" cargo clippy --locked --all-targets -- -D warnings
step "tests" tests
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

read -r passed broken skipped < <(awk '/^test result:/ { p += $4; f += $6; s += $8 } END { print p + 0, f + 0, s + 0 }' "$log")
echo
if ((skipped)); then
  echo "Skipped:"
  grep -E '^test .* \.\.\. ignored' "$log" | sed 's/^test /  /; s/ \.\.\. ignored,\{0,1\}/:/'
  [[ ${CI:-} != true ]] || failed+=("skipped tests")
fi
if ((${#failed[@]})); then
  printf 'Failed: %s\n' "${failed[@]}"
fi
echo "$passed passed, $broken failed, $skipped skipped"
((${#failed[@]} == 0 && passed > 0))
