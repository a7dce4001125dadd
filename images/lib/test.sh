# shellcheck shell=bash disable=SC2154 # given: architectures, variants, out, version, work
# What docs/images.md says of the images, seen on the images themselves.

passed=0
failed=0

# check SENTENCE COMMAND...
check() {
	local said sentence=$1
	shift
	if said=$("$@" 2>&1); then
		passed=$((passed + 1))
		printf 'PASS image %s\n' "$sentence"
	else
		failed=$((failed + 1))
		printf 'FAIL image %s\n%s\n' "$sentence" "$(tail -n 20 <<<"$said")"
	fi
}

summary() {
	printf '%s passed, %s failed\n' "$passed" "$failed"
	[ "$failed" = 0 ]
}

# unpack_image ARCHIVE DIRECTORY: its one layer, and its configuration as DIRECTORY.json.
unpack_image() {
	local config layer
	mkdir -p "$2"
	config=$(tar -xOf "$1" manifest.json | jq -r '.[0].Config')
	tar -xOf "$1" "$config" >"$2.json"
	for layer in $(tar -xOf "$1" manifest.json | jq -r '.[0].Layers[]'); do
		# A layer may be a link to another one's place in the archive.
		tar -xf "$1" -C "$work" --one-top-level="$(basename "$2").raw"
		tar -xf "$2.raw/$layer" -C "$2"
		rm -rf "$2.raw"
	done
}

is_static() {
	! readelf --program-headers "$1" | grep -E 'INTERP|DYNAMIC' || return 1
	! readelf --dynamic "$1" | grep NEEDED
}

names_no_place_of_this_machine() {
	! strings -a "$1" | grep -m 5 -oF -e "$PWD/" -e "$CARGO_TARGET_DIR/" -e "${CARGO_HOME:-$HOME/.cargo}/"
}

is_below() {
	local bytes
	bytes=$(gzip -9 <"$1" | wc -c)
	echo "$bytes bytes"
	[ "$bytes" -lt "$2" ]
}

config_is() {
	jq -c . "$1"
	[ "$(jq -r "$2" "$1")" = "$3" ]
}

# in_image ARCHITECTURE ROOT COMMAND...: chrooted into it, which sees nothing but its files; emulated where it is foreign.
in_image() {
	local arch=$1 root=$2
	shift 2
	if [ "$arch" = "$(dpkg --print-architecture)" ]; then
		as_root chroot "$root" "$@"
	else
		[ -e "$root/qemu" ] || install -m 755 "/usr/bin/qemu-$(rust_target "$arch" | cut -d- -f1)-static" "$root/qemu"
		as_root chroot "$root" /qemu "$@"
	fi
}

says_its_version() {
	[ "$(in_image "$1" "$2" /usr/local/bin/bypassctl --version)" = "bypassctl $version" ]
}

judges_manifests() {
	in_image "$1" "$2" /usr/local/bin/bypassctl check files --output short - <deploy/samples/pekko/application.yaml
}

# Emulation has no nf_tables over netlink; that the rules are decided and printed says that all before the kernel works.
prints_rules() {
	in_image "$1" "$2" /usr/local/bin/bypassctl init --dry-run | grep -q 'table inet bypassctl'
}

# Named, since there is no /proc to say where the binary is.
brings_the_library() {
	local library=libbypassctl_preload.so
	in_image "$1" "$2" /usr/local/bin/bypassctl shim --install / --library "/usr/local/lib/bypassctl/$library" &&
		as_root cmp "$2/$library" "$2/usr/local/lib/bypassctl/$library" && as_root rm -f "$2/$library"
}

has_tools() {
	local tool said without_nft=
	# Emulation has no nf_tables: those tools come as far as asking for it, with all of their libraries.
	[ "$1" = "$(dpkg --print-architecture)" ] || without_nft='Failed to initialize nft'
	for tool in iptables-nft iptables-legacy ip6tables-nft ip6tables-legacy; do
		said=$(in_image "$1" "$2" "/usr/sbin/$tool" --version 2>&1) ||
			[[ -n $without_nft && $tool == *-nft && $said == *"$without_nft"* ]] || { echo "$said" >&2 && return 1; }
	done
	# Every match and target that a rule of a mesh may have is a library of its own, loaded by name.
	tool=iptables-nft
	[ -z "$without_nft" ] || tool=iptables-legacy
	in_image "$1" "$2" "/usr/sbin/$tool" -m owner -j REDIRECT --help | grep -q 'owner match options'
}

lists_what_is_in_it() {
	jq -e '.bomFormat == "CycloneDX" and (.components | length > 100) and .metadata.component.name == "bypassctl"
		and any(.components[]; .name == "rustls")' "$1" >/dev/null || return
	! grep -n 'file://' "$1" || return
	[ "$2" = plain ] || jq -e 'any(.components[]; .purl // "" | startswith("pkg:deb/debian/libc6@"))' "$1" >/dev/null
}

names_the_binary() {
	[ "$(jq -r '.metadata.component.hashes[0].content' "$1")" = "$(sha256sum <"$2" | cut -d' ' -f1)" ]
}

has_both_architectures() {
	local index digest
	index=$(tar -xOf "$1" index.json)
	digest=$(jq -r '.manifests[0].digest | sub(":"; "/")' <<<"$index")
	[ "$(tar -xOf "$1" "blobs/$digest" | jq -r '[.manifests[].platform.architecture] | sort | join(" ")')" = "amd64 arm64" ]
}

test_images() {
	local arch variant name archive root binary
	for variant in "${variants[@]}"; do
		name=$(image_name "$variant")
		for arch in "${architectures[@]}"; do
			archive=$out/$name-$version-linux-$arch.tar
			root=$work/unpacked-$name-$arch
			binary=$root/usr/local/bin/bypassctl
			unpack_image "$archive" "$root"
			check "$name $arch: is for that architecture" config_is "$root.json" .architecture "$arch"
			check "$name $arch: runs as a user who is not root" config_is "$root.json" .config.User 12552:12552
			check "$name $arch: says of which commit it is" config_is "$root.json" \
				'.config.Labels["org.opencontainers.image.revision"]' "$revision"
			check "$name $arch: takes less than 15 MB to pull" is_below "$archive" 15000000
			check "$name $arch: starts and says its version" says_its_version "$arch" "$root"
			check "$name $arch: judges the sample's manifests" judges_manifests "$arch" "$root"
			check "$name $arch: decides the rules" prints_rules "$arch" "$root"
			check "$name $arch: brings the library that apps preload" brings_the_library "$arch" "$root"
			check "$name $arch: its SBOM lists what is in it" lists_what_is_in_it "${archive%.tar}.cdx.json" "$variant"
			check "$name $arch: its SBOM is this binary's" names_the_binary "${archive%.tar}.cdx.json" "$binary"
			if [ "$variant" = plain ]; then
				check "$name $arch: the binary is static" is_static "$binary"
				check "$name $arch: the binary names no place of this machine" names_no_place_of_this_machine "$binary"
			else
				check "$name $arch: the iptables tools start" has_tools "$arch" "$root"
			fi
		done
		[ ${#architectures[@]} != 2 ] ||
			check "$name: one name for both architectures" has_both_architectures "$out/$name-$version.oci.tar"
	done
	summary
}

# The same sources in another directory, with another target directory, some seconds later.
reproduce() {
	local elsewhere variant name
	elsewhere=$(mktemp -d -t bypassctl-elsewhere.XXXXXX)
	git ls-files -z | xargs -0 cp --parents -t "$elsewhere"
	(cd "$elsewhere" && git init -q) # so that cargo looks no further up
	local here_target=$CARGO_TARGET_DIR here_out=$out
	cd "$elsewhere" || return
	CARGO_TARGET_DIR=$elsewhere/its-target out=$elsewhere/its-images
	build_images
	cd - >/dev/null || return
	# shellcheck disable=SC2064 # these
	trap "rm -rf '$work' '$elsewhere'" EXIT
	check "the binary is the same byte for byte" cmp "$here_target/static/$(rust_target amd64)/release/bypassctl" \
		"$elsewhere/its-target/static/$(rust_target amd64)/release/bypassctl"
	check "the digests are the same" diff "$here_out/digests.txt" "$elsewhere/its-images/digests.txt"
	for variant in "${variants[@]}"; do
		name=$(image_name "$variant")-$version-linux-amd64
		check "$name: the SBOM is the same" cmp "$here_out/$name.cdx.json" "$elsewhere/its-images/$name.cdx.json"
	done
	summary
}
