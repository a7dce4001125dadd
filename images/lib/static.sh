# shellcheck shell=bash disable=SC2034,SC2154 # for the scripts that source this
# The static binary, for either architecture, on a machine of either.

rust_target() {
	case $1 in
	amd64) echo x86_64-unknown-linux-musl ;;
	arm64) echo aarch64-unknown-linux-musl ;;
	esac
}

# zig has musl and compiles C for both, so the result does not depend on the machine's own compilers.
need_zig() {
	local venv=$BYPASSCTL_CACHE/zig
	if ! cmp -s images/requirements.txt "$venv/requirements.txt"; then
		say "installing zig and cargo-zigbuild"
		rm -rf "$venv"
		python3 -m venv "$venv"
		"$venv/bin/pip" install --quiet --no-deps --require-hashes --only-binary :all: -r images/requirements.txt >&2
		cp images/requirements.txt "$venv/requirements.txt"
	fi
	PATH=$venv/bin:$PATH
}

# need_std ARCHITECTURE: the standard library for musl. By rustup; where that cannot be had, it is built along from the
# source that Debian ships for the same Rust. Sets std_from, and std_source if there is one.
need_std() {
	local target pinned
	target=$(rust_target "$1")
	pinned=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
	std_source=
	if [ -z "${BYPASSCTL_BUILD_STD:-}" ] && command -v rustup >/dev/null && has_or_gets_target "$pinned" "$target"; then
		std_from="rustup, $pinned"
		return
	fi
	grep -q "rust-src_$pinned+" images/rust-src.lock ||
		fail "rustup has no $target for Rust $pinned, and images/rust-src.lock names the source of another version"
	[ "$(rustc --version | cut -d' ' -f2)" = "$pinned" ] ||
		fail "the standard library's source is that of Rust $pinned, and this is $(rustc --version)"
	std_source=$BYPASSCTL_CACHE/rust-src-$pinned
	if [ ! -f "$std_source/complete" ]; then
		rm -rf "$std_source"
		unpack_locked all images/rust-src.lock "$std_source"
		touch "$std_source/complete"
	fi
	std_from="Debian's rust-src, SHA-256 $(sed -n 's/^all .* //p' images/rust-src.lock)"
}

has_or_gets_target() {
	rustup target list --installed --toolchain "$1" | grep -qx "$2" ||
		rustup target add --toolchain "$1" "$2" >&2 ||
		{ say "rustup cannot get $2; its standard library is built from source" && false; }
}

# build_static ARCHITECTURE: sets static_binary, its path.
#
# No path of this machine may be in it: it would be another binary in another directory. With profile=dev that does not
# matter, and nothing of the build depends on the directory, so that another checkout finds its dependencies built.
build_static() {
	local target cargo_home build_dir options=(--release) directory=release epoch=$SOURCE_DATE_EPOCH
	target=$(rust_target "$1")
	cargo_home=${CARGO_HOME:-$HOME/.cargo}
	build_dir=$CARGO_TARGET_DIR/static
	need_std "$1"
	say "building for $1; standard library: $std_from"
	local flags="-C link-self-contained=no -C target-feature=+crt-static"
	local c_flags="-ffile-prefix-map=$PWD=/bypassctl -ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$build_dir=/build"
	if [ "$profile" = dev ]; then
		options=(--config 'profile.dev.strip=true')
		directory=debug
		c_flags=
		# Another one builds all C anew, and what depends on it.
		epoch=0
	else
		flags+=" --remap-path-prefix=$PWD=/bypassctl --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$build_dir=/build"
	fi
	if [ -n "$std_source" ]; then
		local library
		library=$(echo "$std_source"/usr/src/rustc-*/library)
		options+=(-Z "build-std=std,panic_unwind")
		flags+=" --remap-path-prefix=$library=/rustc/library"
		# Where cargo takes the source from, instead of a component of the toolchain; and that it may.
		export __CARGO_TESTS_ONLY_SRC_ROOT=$library RUSTC_BOOTSTRAP=1
	fi
	RUSTFLAGS=$flags CFLAGS=$c_flags \
		CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=$build_dir SOURCE_DATE_EPOCH=$epoch \
		cargo zigbuild --locked "${options[@]}" --target "$target" --bin bypassctl >&2
	static_binary=$build_dir/$target/$directory/bypassctl
}

# build_preload ARCHITECTURE: sets preload_library, the path of what apps preload. It links with no C library, so what is built
# for musl is for any.
build_preload() {
	local target options=() flags="-C target-feature=-crt-static -C link-self-contained=no --remap-path-prefix=$PWD=/bypassctl"
	target=$(rust_target "$1")
	need_std "$1"
	if [ -n "$std_source" ]; then
		local library
		library=$(echo "$std_source"/usr/src/rustc-*/library)
		options=(-Z build-std=core)
		flags+=" --remap-path-prefix=$library=/rustc/library"
		export __CARGO_TESTS_ONLY_SRC_ROOT=$library RUSTC_BOOTSTRAP=1
	fi
	RUSTFLAGS=$flags CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=$CARGO_TARGET_DIR/preload SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH \
		cargo zigbuild --locked "${options[@]}" --package bypassctl-preload --profile shim --target "$target" >&2
	preload_library=$CARGO_TARGET_DIR/preload/$target/shim/libbypassctl_preload.so
	! readelf --dynamic "$preload_library" | grep NEEDED >&2 || fail "$preload_library needs libraries that an app may not have"
}
