# shellcheck shell=bash
# What the fetch scripts share; they source it: downloads that resume, checks, unpacking, the table at the end.
set -euo pipefail
export LC_ALL=C

data_root=${DATA_ROOT:-/data/datasets}
exit_status=0

say() { printf '%s\n' "$*"; }
problem() { printf 'error: %s\n' "$*" >&2; exit_status=2; }
die() { problem "$@"; exit 2; }
has() { command -v "$1" >/dev/null; }

# begin ARGUMENTS...: show the help, which is the caller's first comment, or get ready.
begin() {
  case ${1:-} in
    -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
    ?*) die "expected no argument but --help, found '$1'; settings are variables: DATA_ROOT=FOLDER $0" ;;
  esac
  has wget || has curl || die "expected wget or curl, found neither: apt-get install wget"
  has md5sum || die "expected the programs of GNU coreutils, found no md5sum"
  has unzip || has python3 || die "expected unzip or python3, found neither: apt-get install unzip"
  # Unpacked beside the data, so that moving into place is a matter of a moment.
  { mkdir -p "$data_root/downloads" && data_root=$(cd "$data_root" && pwd) &&
    work=$(mktemp -d "$data_root/.unpacking.XXXXXX"); } 2>/dev/null ||
    die "cannot write to $data_root; choose a folder, here and for training: export DATA_ROOT=\$HOME/datasets"
  trap 'rm -rf "$work"' EXIT
  voc=$data_root/VOCdevkit/VOC2012
}

zip_is_whole() {
  if has unzip; then unzip -tqq "$1"; else # `python3 -m zipfile -t` ends with 0 for damaged files too
    python3 -c 'import sys, zipfile; sys.exit(zipfile.ZipFile(sys.argv[1]).testzip() is not None)' "$1"
  fi
}

# complaint FILE [MD5]: why a download is not what it should be; nothing if it is.
complaint() {
  local file=$1 md5=${2:-} found
  if [[ $md5 ]]; then
    found=$(md5sum <"$file") found=${found%% *}
    [[ $found == "$md5" ]] || say "expected the MD5 $md5, found $found ($(wc -c <"$file") bytes)"
  elif ! zip_is_whole "$file" >/dev/null 2>&1; then
    say "expected a complete ZIP archive, found $(wc -c <"$file") bytes of something else"
  fi
}

# transfer URL PART: fetch the rest of a file, trying again while that helps; set $reason when it cannot be had.
transfer() {
  local url=$1 part=$2 log=$work/log idle=0 tool status before
  while ((idle < 3)); do
    sleep "$idle"
    before=$(stat -c %s "$part" 2>/dev/null || echo 0) status=0
    : >"$log"
    if has wget; then
      tool=(wget --no-verbose --tries=1 --timeout=60 --continue --output-document="$part")
      if [[ -t 2 ]]; then tool+=(--show-progress); else tool+=(--output-file="$log"); fi
    else
      tool=(curl --fail --location --connect-timeout 60 --speed-limit 1 --speed-time 60 --continue-at - --output "$part")
      [[ -t 2 ]] || tool+=(--silent --show-error --stderr "$log")
    fi
    "${tool[@]}" "$url" || status=$?
    ((status)) || return 0
    reason=$(tail -n 1 "$log" | sed -E 's/^[-0-9]+ [:0-9]+ |^(wget|curl): (\([0-9]+\) )?//g')
    reason=${reason:-${tool[0]} stopped with status $status}
    case ${tool[0]}$status in
      wget3 | curl23) die "cannot write $part: is the disk full?" ;;
      wget8 | curl22) break ;;       # the server says no
      curl33) rm -f "$part" ;;       # it does not resume
    esac
    if [[ $(stat -c %s "$part" 2>/dev/null || echo 0) -gt $before ]]; then idle=0; else idle=$((idle + 1)); fi
  done
  [[ -s $part ]] || rm -f "$part"
  return 1
}

# fetch NAME VARIABLE MD5 URL...: leave a checked archive in downloads/NAME, from the first URL that has it, or say that
# none has. The variable, when set, holds other URLs to try in place of these.
fetch() {
  local name=$1 variable=$2 md5=$3 file=$data_root/downloads/$1 part=$data_root/downloads/$1.part urls url wrong went_on
  shift 3
  read -ra urls <<<"${!variable:-$*}"
  if [[ -f $file ]]; then
    wrong=$(complaint "$file" "$md5")
    [[ $wrong ]] || return 0
    say "$file: $wrong; fetching the rest"
    mv -f "$file" "$part"
  fi
  for url in "${urls[@]}"; do
    say "fetching $name from $url"
    while true; do
      went_on=
      if [[ -s $part ]]; then went_on=yes; fi
      if ! transfer "$url" "$part"; then
        say "$url: $reason"
        break
      fi
      reason=$(complaint "$part" "$md5")
      if [[ ! $reason ]]; then
        mv "$part" "$file"
        return 0
      fi
      rm -f "$part"
      [[ $went_on ]] || { say "$url: $reason"; break; }
      say "$url: $reason; starting over"
    done
  done
  problem "$name cannot be had ($reason): download ${urls[0]} by other means into $file and run $0 again," \
    "or name another mirror in $variable"
  return 1
}

# unpack NAME: unpack downloads/NAME into the empty folder $work/tree.
unpack() {
  local file=$data_root/downloads/$1
  say "unpacking $1"
  rm -rf "$work/tree"
  mkdir "$work/tree"
  case $1 in
    *.tar) tar -xf "$file" -C "$work/tree" ;;
    *) if has unzip; then unzip -qq "$file" -d "$work/tree"; else python3 -m zipfile -e "$file" "$work/tree"; fi ;;
  esac || die "$file cannot be unpacked into $work: is the disk full?"
  rm -rf "$work/tree/__MACOSX"
}

# place_pngs FOLDER: move the folder of $work/tree that holds the most PNGs to FOLDER of the data set.
place_pngs() {
  local folder
  folder=$(find "$work/tree" -name '[!.]*.png' -printf '%h\n' | sort | uniq -c | sort -rn | sed -E 's/^ *[0-9]+ //;q')
  [[ $folder ]] || die "expected label maps (PNG) for $1 in the archive, found none"
  mkdir -p "$voc"
  mv "$folder" "$voc/$1"
}

ids() { find "$voc/$1" -maxdepth 1 -name "[!.]*.$2" -printf '%f\n' | sed "s/\.$2\$//" | sort; }

# finish FOLDER...: say what the loader will find, and exit; with 2 unless these folders are there and complete.
finish() {
  local lists=$voc/ImageSets/SegmentationAug folder suffix listed missing state
  local absent="not there: data/VOC2012/fetchVOC2012.sh"
  say "$voc"
  for listed in train val; do
    state=$(wc -l 2>/dev/null <"$lists/$listed.txt") && state+=" images" || state=$absent
    printf '  %-40s %s\n' "ImageSets/SegmentationAug/$listed.txt" "$state"
  done
  for folder in JPEGImages SegmentationClassAug pascal_2012_scribble; do
    listed=("$lists/train.txt" "$lists/val.txt") suffix=png missing=1 state=$absent
    case $folder in
      JPEGImages) suffix=jpg ;;
      pascal_2012_scribble)
        listed=("$lists/train.txt") # validation needs none
        state="not there: data/pascal_scribble/fetchPascalScribble.sh"
        ;;
    esac
    if [[ -d $voc/$folder ]]; then
      missing=$({ cat "${listed[@]}" 2>/dev/null || true; } | sort -u | comm -23 - <(ids "$folder" $suffix) | wc -l)
      state="$(ids "$folder" $suffix | wc -l) files"
      ((missing == 0)) || state+=", $missing of the listed ones are missing: delete the folder and run $0 again"
    fi
    printf '  %-40s %s\n' "$folder" "$state"
    if ((missing)) && [[ " $* " == *" $folder "* ]]; then exit_status=2; fi
  done
  exit "$exit_status"
}
