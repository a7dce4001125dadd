# shellcheck shell=bash disable=SC2034,SC2154 # shared with scripts/image
# The bill of materials: CycloneDX, by the tool of that project.

need_sbom_tool() {
	local root=$BYPASSCTL_CACHE/cargo-cyclonedx-0.5.9
	if [ ! -x "$root/bin/cargo-cyclonedx" ]; then
		say "building cargo-cyclonedx"
		CARGO_TARGET_DIR=$root/target cargo install --quiet --locked --root "$root" cargo-cyclonedx@0.5.9 >&2
		rm -rf "$root/target"
	fi
	sbom_tool=$root/bin/cargo-cyclonedx
}

# write_sbom ARCHITECTURE VARIANT BINARY LIBRARY FILE
write_sbom() {
	local work packages='[]'
	[ "$2" = plain ] || packages=$(locked_components "$1")
	work=$(mktemp -d)
	# It writes beside Cargo.toml, and names that place: both are taken out of our way.
	cp -r Cargo.toml Cargo.lock preload "$work"
	ln -s "$PWD/src" "$PWD/benches" "$work"
	"$sbom_tool" cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --target "$(rust_target "$1")" \
		--manifest-path "$work/Cargo.toml"
	jq --arg digest "$(sha256sum <"$3" | cut -d' ' -f1)" --arg std "$std_from" --arg place "path+file://$work" \
		--arg library "$(sha256sum <"$4" | cut -d' ' -f1)" --argjson packages "$packages" '
		walk(if type == "string" then (split($place + "#") | join("")) | gsub("\\?download_url=file://[^#]*(#.*)?$"; "") else . end)
		| .metadata.component.hashes = [{alg: "SHA-256", content: $digest}]
		| .metadata.properties += [{name: "bypassctl:standard-library", value: $std}]
		| .components += [{type: "library", name: "bypassctl-preload", version: .metadata.component.version,
		    hashes: [{alg: "SHA-256", content: $library}]}] + $packages' "$work/bypassctl_bin.cdx.json" >"$5"
	rm -rf "$work"
}

# What of Debian is in the image.
locked_components() {
	awk -v arch="$1" '$1 == arch { print $2, $3 }' images/iptables.lock | while read -r path digest; do
		IFS=_ read -r name version _ <<<"$(basename "$path" .deb)"
		jq -n --arg name "$name" --arg version "$version" --arg digest "$digest" --arg arch "$1" '
			{type: "library", name: $name, version: $version, hashes: [{alg: "SHA-256", content: $digest}],
			 purl: "pkg:deb/debian/\($name)@\($version | @uri)?arch=\($arch)&distro=debian-13"}'
	done | jq --slurp .
}
