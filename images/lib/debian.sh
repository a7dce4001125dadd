# shellcheck shell=bash
# Debian packages of any release and architecture, unpacked without the system's own apt knowing of them.
#
# A lock file names each by its place in the archive and its SHA-256, so whoever serves it is not trusted.

# The mirror that this machine's own apt uses.
debian_mirror() {
	local site
	# shellcheck disable=SC2016 # apt's own variables
	site=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
		sed -n 's,^\(.*/debian/*\) Debian$,\1,p' | head -n 1)
	if [ -z "$site" ]; then
		as_root apt-get update -qq >&2
		# shellcheck disable=SC2016
		site=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 'Created-By: Packages' |
			sed -n 's,^\(.*/debian/*\) Debian$,\1,p' | head -n 1)
	fi
	[ -n "$site" ] || fail "apt knows no mirror of Debian; this needs a Debian machine"
	echo "$site"
}

# unpack_locked ARCHITECTURE LOCK DIRECTORY: what the lock file names for that architecture, or for all.
unpack_locked() {
	local arch=$1 lock=$2 dest=$3 of path digest file archives=$BYPASSCTL_CACHE/debian
	mkdir -p "$archives" "$dest"
	while read -r of path digest; do
		[ "$of" = "$arch" ] || [ "$of" = all ] || continue
		file=$archives/$(basename "$path")
		if ! sha256sum --check --status <<<"$digest  $file" 2>/dev/null; then
			say "fetching $(basename "$path") from Debian"
			rm -f "$file"
			/usr/lib/apt/apt-helper download-file "$(debian_mirror)$path" "$file" "SHA256:$digest" >&2 ||
				fail "Debian does not have $(basename "$path") as $lock names it (for iptables, scripts/image lock names today's)"
		fi
		dpkg-deb --extract "$file" "$dest"
	done < <(grep -v '^#' "$lock")
}

# lock_packages RELEASE PACKAGE...: prints the lines of a lock file for both architectures, as apt, which checks the
# archive's signatures, has them today.
lock_packages() {
	local release=$1 arch root
	shift
	for arch in amd64 arm64; do
		root=$(mktemp -d)
		mkdir -p "$root"/{lists/partial,archives/partial}
		: >"$root/status"
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $release main" >"$root/sources.list"
		private=(-o Dir::State="$root" -o Dir::State::status="$root/status" -o Dir::Cache="$root" -o APT::Sandbox::User=root
			-o Dir::Etc::sourcelist="$root/sources.list" -o Dir::Etc::sourceparts=- -o APT::Architecture="$arch"
			-o APT::Architectures="$arch")
		apt-get "${private[@]}" update -qq >&2
		apt-get "${private[@]}" download --print-uris "$@" |
			sed -E "s,^'[^']*/(pool/[^']*)' [^ ]* [0-9]* SHA256:([0-9a-f]*).*,$arch \1 \2," | sed 's/%2b/+/g; s/%7e/~/g'
		rm -rf "$root"
	done
}
