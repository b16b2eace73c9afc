#!/usr/bin/env bash
# Makes the static binary: packaging/build.sh [TARGET], default x86_64-unknown-linux-musl.
# The result is dist/backroom-TARGET, one file that needs no library of the system it runs on.
#
# Why zig: SQLite is C, so a musl target needs a C compiler and a linker for musl. cargo-zigbuild uses zig for both, and
# zig comes from PyPI as one package: no root, no system package, and the same way for every target. (musl-gcc of
# Debian's musl-tools would do for x86_64 alone.) The tools are kept under target/, at pinned versions.
#
# Needs: rustup, python3 with venv, a C compiler for cargo's own build scripts.
set -euo pipefail

target=${1:-x86_64-unknown-linux-musl}
cargo_zigbuild=0.24.1
ziglang=0.15.2
most_bytes=$((15 * 1024 * 1024))

cd "$(dirname "$0")/.."
build=${CARGO_TARGET_DIR:-target}
mkdir -p "$build"
build=$(cd "$build" && pwd)
tools=$build/tools

fail() {
  echo "build.sh: $*" >&2
  exit 1
}

case $target in
  *-linux-musl*) ;;
  *) fail "$target is not a musl target; only those give a static binary" ;;
esac

# The tools.
rustup target add "$target"
if ! "$tools/venv/bin/python" -c "import sys, importlib.metadata as m; sys.exit(m.version('ziglang') != '$ziglang')" 2>/dev/null; then
  python3 -m venv "$tools/venv"
  "$tools/venv/bin/pip" install --quiet "ziglang==$ziglang"
fi
if ! "$tools/bin/cargo-zigbuild" --version 2>/dev/null | grep -qF " $cargo_zigbuild"; then
  CARGO_TARGET_DIR=$tools/build cargo install cargo-zigbuild --version "$cargo_zigbuild" --locked --root "$tools"
  rm -rf "$tools/build"
fi
cat > "$tools/bin/zig" <<END
#!/bin/sh
exec "$tools/venv/bin/python" -m ziglang "\$@"
END
chmod +x "$tools/bin/zig"

# The build.
PATH=$tools/bin:$PATH CARGO_ZIGBUILD_ZIG_PATH=$tools/bin/zig CARGO_TARGET_DIR=$build \
  cargo zigbuild --release --locked --bin backroom --target "$target"
mkdir -p dist
binary=dist/backroom-$target
install -m 0755 "$build/$target/release/backroom" "$binary"

# It is static: no interpreter asked for, and no shared library. Read from the file itself, so that it also works for
# foreign targets.
python3 - "$binary" <<'END'
import struct, sys

data = open(sys.argv[1], "rb").read()
assert data[:4] == b"\x7fELF", "not an ELF file"
wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
if wide:
    start, = struct.unpack_from(order + "Q", data, 32)
    size, count = struct.unpack_from(order + "HH", data, 54)
else:
    start, = struct.unpack_from(order + "I", data, 28)
    size, count = struct.unpack_from(order + "HH", data, 42)
for number in range(count):
    at = start + number * size
    kind, = struct.unpack_from(order + "I", data, at)
    if kind == 3:
        sys.exit("build.sh: the binary asks for a dynamic loader (PT_INTERP), so it is not static")
    if kind == 2:
        offset, = struct.unpack_from(order + ("Q" if wide else "I"), data, at + (8 if wide else 4))
        length, = struct.unpack_from(order + ("Q" if wide else "I"), data, at + (32 if wide else 16))
        entry = order + ("qQ" if wide else "iI")
        for place in range(offset, offset + length, struct.calcsize(entry)):
            tag, _ = struct.unpack_from(entry, data, place)
            if tag == 0:
                break
            if tag == 1:
                sys.exit("build.sh: the binary names a shared library (DT_NEEDED), so it is not static")
END
bytes=$(wc -c < "$binary")
[ "$bytes" -lt "$most_bytes" ] || fail "$binary has $bytes bytes; the limit is $most_bytes"

# It starts, if this machine can run it.
if [ "$(uname -s)-$(uname -m)" = "Linux-${target%%-*}" ]; then
  "$binary" version
  data=$(mktemp -d)
  port=${BACKROOM_BUILD_PORT:-8490}
  server=
  clean() {
    if [ -n "$server" ]; then
      kill "$server" 2>/dev/null || true
      wait "$server" 2>/dev/null || true
    fi
    rm -rf "$data"
  }
  trap clean EXIT
  "$binary" --data-dir "$data/backroom" serve --listen "127.0.0.1:$port" > "$data/out" 2>&1 &
  server=$!
  answered=
  for _ in $(seq 100); do
    if "$binary" --data-dir "$data/backroom" healthcheck --listen "127.0.0.1:$port" > /dev/null 2>&1; then
      answered=1
      break
    fi
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  if [ -z "$answered" ]; then
    cat "$data/out" >&2
    fail "the binary does not serve"
  fi
  kill "$server"
  wait "$server" || fail "the binary did not stop cleanly"
  server=
  echo "It serves and stops."
else
  echo "Not started: this machine cannot run $target."
fi
echo "$binary: static, $bytes bytes ($((bytes / 1024 / 1024)) MiB)"
