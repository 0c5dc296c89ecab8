# shellcheck shell=bash
# Archives in parts, for files that travel a few at a time; sourced by gpu_study.sh.
#
# A part is part_001, part_002, …; `manifest` beside it has the SHA-256 of all parts, and the
# archive's first member, files.sha256, that of every file in it.

make_parts() { # SOURCE OUT SIZE MEMBER...: an archive of the members of SOURCE, links followed
  local source=$1 out=$2 size=$3
  shift 3
  mkdir -p "$out" &&
    (cd "$source" && find -L "$@" -type f -print0 | LC_ALL=C sort -z |
      xargs -0 -r sha256sum >files.sha256) &&
    tar -C "$source" -ch files.sha256 "$@" | gzip -1 |
    split -b "$size" -a 3 --numeric-suffixes=1 - "$out/part_" &&
    (cd "$out" && sha256sum part_* >manifest.new && mv manifest.new manifest) ||
    die "the archive cannot be written to $out; free some space, or name another directory."
}

collect_parts() { # INTO DIR...: parts of one archive, each checked, brought together
  local into=$1 dir
  shift
  mkdir -p "$into" || die "$into cannot be made; name another directory."
  for dir in "$@"; do
    [[ -f $dir/manifest ]] && compgen -G "$dir/part_*" >/dev/null ||
      die "$dir holds no part of an archive; give directories that pack, study or bundle wrote."
    [[ ! -e $into/manifest ]] || cmp -s "$dir/manifest" "$into/manifest" ||
      die "$dir is of another archive than the parts before it (in $into); give those of one."
    (cd "$dir" && sha256sum --check --status --ignore-missing manifest 2>/dev/null) ||
      die "a part in $dir is damaged; bring it again."
    cp "$dir"/part_* "$dir/manifest" "$into/" || die "$into cannot be written; free some space."
  done
}

failed_sums() { # LIST: files named in it that are not there or not whole
  (cd "$(dirname "$1")" && LC_ALL=C sha256sum --check --quiet "$(basename "$1")" 2>/dev/null) |
    sed 's/: FAILED.*//' || true
}

missing_parts() { # DIR: their numbers, ascending
  failed_sums "$1/manifest" | sed 's/^part_0*//' | paste -sd ' '
}

open_parts() { # DIR INTO: what the parts hold, up to the first that is missing
  local first part whole=()
  first=$(missing_parts "$1")
  first=${first%% *}
  for part in "$1"/part_*; do
    [[ -z $first ]] || ((10#${part##*_} < first)) || break
    whole+=("$part")
  done
  ((${#whole[@]})) || die "part 1 is missing, and nothing can be read without it; bring it too."
  mkdir -p "$2" || die "$2 cannot be made; name another directory."
  # An archive that was cut off gives what comes before the cut; the sums tell what that is.
  cat "${whole[@]}" | gzip -dc 2>/dev/null | tar -xf - -C "$2" 2>/dev/null || true
}

size_of_parts() { # DIR
  find "$1" -name 'part_*' -printf '%s\n' |
    awk '{ bytes += $1 } END { printf "%.1f MiB", bytes / 2 ^ 20 }'
}
