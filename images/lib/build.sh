# shellcheck shell=bash disable=SC2154 # given by scripts/image: architectures, variants, out, version, revision
# From binaries to images.

iptables_packages=(iptables libc6 libmnl0 libnetfilter-conntrack3 libnfnetlink0 libnftnl11 libxtables12 libip4tc2 libip6tc2)

lock_iptables() {
	local lines
	lines=$(lock_packages trixie "${iptables_packages[@]}")
	[ "$(wc -l <<<"$lines")" = $((2 * ${#iptables_packages[@]})) ] || fail "apt does not know all of: ${iptables_packages[*]}"
	sed -i '/^#/!d' images/iptables.lock
	echo "$lines" >>images/iptables.lock
}

image_name() {
	[ "$1" = plain ] && echo bypassctl || echo "bypassctl-$1"
}

# lay_out ARCHITECTURE VARIANT BINARY ROOT: what is in the image, with modes that no umask has a say in.
lay_out() {
	local root=$4
	install -D -m 755 "$3" "$root/usr/local/bin/bypassctl"
	install -D -m 644 "$preload_library" "$root/usr/local/lib/bypassctl/libbypassctl_preload.so"
	install -D -m 644 LICENSE "$root/usr/share/doc/bypassctl/LICENSE"
	[ "$2" = plain ] || add_iptables "$1" "$root"
	find "$root" -type d -exec chmod 755 {} +
}

# The tools that `init` calls, the libraries that they and their modules name, and those packages' licences.
add_iptables() {
	local root=$2 from libraries interpreter package file name
	from=$(mktemp -d)
	unpack_locked "$1" images/iptables.lock "$from"
	libraries=$(cd "$from" && echo usr/lib/*-linux-gnu)
	mkdir -p "$root/usr/sbin" "$root/$libraries/xtables" "$root/run"
	for file in xtables-nft-multi xtables-legacy-multi; do
		install -m 755 "$from/usr/sbin/$file" "$root/usr/sbin/"
	done
	for name in iptables ip6tables; do
		for file in '' -save -restore; do
			ln -s xtables-nft-multi "$root/usr/sbin/$name-nft$file"
			ln -s xtables-legacy-multi "$root/usr/sbin/$name-legacy$file"
		done
	done
	install -m 644 "$from/$libraries"/xtables/lib{xt,ipt,ip6t}_*.so "$root/$libraries/xtables/"
	add_libraries "$from/$libraries" "$root/$libraries" "$root"/usr/sbin/*-multi "$root/$libraries"/xtables/*
	# Where programs look for their loader.
	interpreter=$(readelf -l "$root/usr/sbin/xtables-nft-multi" | sed -n 's/.*interpreter: \(.*\)]/\1/p')
	ln -s "usr/$(basename "$(dirname "$interpreter")")" "$root$(dirname "$interpreter")"
	[ -e "$root/usr/$(basename "$(dirname "$interpreter")")" ] || mkdir "$root/usr/$(basename "$(dirname "$interpreter")")"
	[ -e "$root$interpreter" ] || ln -s "/$libraries/$(basename "$interpreter")" "$root/usr/$(basename "$(dirname "$interpreter")")/"
	for package in "${iptables_packages[@]}"; do
		install -D -m 644 "$from/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
	done
	rm -rf "$from"
}

# add_libraries FROM TO FILE...: what the files need, and what that needs.
add_libraries() {
	local from=$1 to=$2 library added=()
	shift 2
	for library in $(readelf -d "$@" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u); do
		[ ! -e "$to/$library" ] || continue
		install -m 755 "$from/$library" "$to/$library"
		added+=("$to/$library")
	done
	[ ${#added[@]} = 0 ] || add_libraries "$from" "$to" "${added[@]}"
}

# in_store ARGUMENT...: buildah, with a store of this run's own, and nothing of the user's.
in_store() {
	buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"
}

build_image() {
	local arch=$1 variant=$2 binary=$3 name root label labels=()
	name=$(image_name "$variant")
	root=$work/$name-$arch
	lay_out "$arch" "$variant" "$binary" "$root"
	for label in \
		title=bypassctl \
		description="Lets Akka and Pekko cluster traffic bypass any service mesh, and gives it mutual TLS of its own" \
		licenses=Apache-2.0 \
		version="$version" \
		revision="$revision" \
		created="$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)"; do
		labels+=(--label "org.opencontainers.image.$label")
	done
	in_store build --isolation chroot --quiet --layers=false --identity-label=false --format oci --platform "linux/$arch" \
		--timestamp "$SOURCE_DATE_EPOCH" "${labels[@]}" --file images/Containerfile --tag "$name:$version-$arch" "$root" >/dev/null
	in_store push --quiet "$name:$version-$arch" "docker-archive:$work/$name-$arch.tar:localhost/$name:$version"
	mv "$work/$name-$arch.tar" "$out/$name-$version-linux-$arch.tar"
	[ "$profile" = dev ] || write_sbom "$arch" "$variant" "$binary" "$preload_library" "$out/$name-$version-linux-$arch.cdx.json"
}

# One name for both architectures.
build_list() {
	local name arch
	name=$(image_name "$1")
	in_store manifest create "$name-list" >/dev/null
	for arch in "${architectures[@]}"; do
		in_store manifest add "$name-list" "containers-storage:localhost/$name:$version-$arch" >/dev/null
	done
	in_store manifest push --quiet --all --format oci "$name-list" "oci-archive:$work/$name.oci.tar:$version"
	mv "$work/$name.oci.tar" "$out/$name-$version.oci.tar"
	tar --extract --to-stdout --file "$out/$name-$version.oci.tar" index.json | jq -r '.manifests[0].digest' |
		sed "s/$/  $name-$version.oci.tar/" >>"$out/digests.txt"
}

build_images() {
	local arch variant binary
	mkdir -p "$out"
	work=$(mktemp -d)
	# shellcheck disable=SC2064 # this one
	trap "rm -rf '$work'" EXIT
	: >"$out/digests.txt"
	for arch in "${architectures[@]}"; do
		build_preload "$arch"
		build_static "$arch"
		binary=$static_binary
		for variant in "${variants[@]}"; do
			build_image "$arch" "$variant" "$binary"
		done
	done
	for variant in "${variants[@]}"; do
		build_list "$variant"
	done
	say "in $out"
	(cd "$out" && sed 's/^/  /' digests.txt) >&2
}
