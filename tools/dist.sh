#!/usr/bin/env bash
# Builds what a release has: an archive of the program with completions, man pages and licence, and the Python wheel.
#
#   tools/dist.sh [FOLDER]              with the profile `dist`: slow, small; default folder: out/dist
#   PROFILE=release tools/dist.sh       with the profile of everything else, to try this script
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
profile=${PROFILE:-dist}
out=${1:-out/dist}
mkdir -p "$out"

cargo build --profile "$profile" --locked --bin hfauto-pipe
program=$CARGO_TARGET_DIR/$profile/hfauto-pipe
version=$("$program" --version | cut -d' ' -f2)
name=hfauto-pipe-$version-$(rustc -vV | sed -n 's/^host: //p')

staged=$(mktemp -d)
trap 'rm -rf "$staged"' EXIT
mkdir -p "$staged/$name"/{completions,man}
install -m 755 "$program" "$staged/$name/hfauto-pipe"
cp LICENSE README.md CHANGELOG.md "$staged/$name/"
for shell in bash elvish fish zsh; do
    "$program" completions "$shell" >"$staged/$name/completions/hfauto-pipe.$shell"
done
"$program" man "$staged/$name/man"
# Equal files give equal archives.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
    -C "$staged" -cf - "$name" | gzip -9n >"$out/$name.tar.gz"

if maturin=$(command -v maturin); then
    "$maturin" build --profile "$profile" --locked --manifest-path crates/python/Cargo.toml --out "$out"
else
    echo "NO MATURIN on the PATH: the Python wheel is SKIPPED (pip install maturin)"
fi
(cd "$out" && sha256sum ./*.tar.gz ./*.whl 2>/dev/null >SHA256SUMS) || true
ls -l "$program" "$out"
