# Images from files of this machine, without a registry. Sourced by what makes some.
#
# Given: work (a directory that goes with the build) and dest (where archives go).
# shellcheck shell=bash disable=SC2154  # the parts share variables

# copy_with_libraries ROOT PROGRAM
copy_with_libraries() {
  local root=$1 file
  for file in "$2" $(ldd "$2" | grep -o '/[^ ]*'); do
    mkdir -p "$root$(dirname "$file")"
    cp --dereference --no-clobber "$file" "$root$file"
  done
}

# write_users ROOT – root, and one for apps.
write_users() {
  mkdir -p "$1/etc"
  printf 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n' >"$1/etc/passwd"
  printf 'root:x:0:\napp:x:1000:\n' >"$1/etc/group"
  printf 'hosts: files dns\npasswd: files\ngroup: files\n' >"$1/etc/nsswitch.conf"
}

# in_store ARGUMENT... – buildah, with a store that goes with the build.
in_store() {
  buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"
}

# build_image NAME INSTRUCTION... – of the files below $work/NAME.
build_image() {
  local name=$1
  shift
  { printf '%s\n' 'FROM scratch' 'COPY . /' "$@"; } >"$work/$name.containerfile"
  in_store build --isolation chroot --quiet --file "$work/$name.containerfile" --tag "bypassctl.test/$name:1" "$work/$name" >&2
  in_store push --quiet "bypassctl.test/$name:1" "docker-archive:$dest/$name.tar:bypassctl.test/$name:1" >&2
}
