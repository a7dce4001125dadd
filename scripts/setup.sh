# shellcheck shell=bash
# Sets up what a script misses: sourced, not run.

# Builds and downloads live outside the tree, so that a fresh clone finds them.
export BYPASSCTL_CACHE="${BYPASSCTL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bypassctl}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$BYPASSCTL_CACHE/target}"

say() { printf '\n== %s\n' "$*" >&2; }

fail() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 3
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		fail "needs root for: $* (run it as root, or install sudo)"
	fi
}

# need_packages PACKAGE...: installs the Debian packages that are not there.
need_packages() {
	local missing=() package
	for package in "$@"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] && return
	command -v apt-get >/dev/null || fail "needs these Debian packages, and there is no apt-get: ${missing[*]}"
	say "installing ${missing[*]}"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# need_toolchain [COMPONENT...]: the pinned Rust by rustup, or a cargo of at least that version.
need_toolchain() {
	local root pinned have
	root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
	pinned=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
	command -v cargo >/dev/null || fail "needs cargo $pinned or later: install rustup, which brings the pinned one (Debian 13: apt-get install rustup)"
	if command -v rustup >/dev/null; then
		rustup which --toolchain "$pinned" cargo >/dev/null 2>&1 ||
			rustup toolchain install "$pinned" --profile minimal --component clippy --component rustfmt >&2
		return
	fi
	have=$(cargo --version | cut -d' ' -f2)
	[ "$(printf '%s\n%s\n' "$pinned" "$have" | sort -V | head -n 1)" = "$pinned" ] ||
		fail "needs cargo $pinned or later, and this is $have; rustup brings the pinned one"
}

# need_go DIRECTORY: a Go that builds the module there; one that is older may fetch what the module asks for by itself
# (GOTOOLCHAIN=auto). Debian 12's own is too old to do so.
need_go() {
	local wanted
	wanted=$(sed -n 's/^go //p' "$1/go.mod")
	# Where Go's own archive puts it.
	PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || fail "needs Go $wanted or later: unpack its archive into /usr/local (Debian 13: apt-get install golang-go)"
	(cd "$1" && go list -m >/dev/null 2>&1) || fail "needs Go $wanted or later, and this is $(go version)"
}

# aws-lc-rs compiles C.
# shellcheck disable=SC2034 # for the scripts that source this
BUILD_PACKAGES=(gcc libc6-dev cmake make)
