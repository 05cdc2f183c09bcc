#!/usr/bin/env bash
# Fetch the scribbles of PASCAL VOC 2012. The images come with data/VOC2012/fetchVOC2012.sh.
#
#     [DATA_ROOT=FOLDER] data/pascal_scribble/fetchPascalScribble.sh
#
# They go to FOLDER/VOCdevkit/VOC2012/pascal_2012_scribble (FOLDER is /data/datasets unless set; training reads the same
# variable), the archive to FOLDER/downloads. What is there is kept, an interrupted download is resumed, and an archive
# that was put into FOLDER/downloads by hand is used. PASCAL_SCRIBBLE_URLS names mirrors, separated by spaces and tried
# in their order in place of the usual one.
source "$(dirname "${BASH_SOURCE[0]}")/../fetch.sh"
begin "$@"

if [[ ! -d $voc/pascal_2012_scribble ]]; then
  if fetch pascal_2012_scribble.zip PASCAL_SCRIBBLE_URLS "" \
    https://cs.uwaterloo.ca/~m62tang/rloss/pascal_2012_scribble.zip; then
    unpack pascal_2012_scribble.zip
    place_pngs pascal_2012_scribble
  fi
fi

finish pascal_2012_scribble
