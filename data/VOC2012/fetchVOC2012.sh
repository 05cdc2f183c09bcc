#!/usr/bin/env bash
# Fetch PASCAL VOC 2012, its augmented ground truth and the lists of images: 2 GB to load, 5 GB on disk.
#
#     [DATA_ROOT=FOLDER] data/VOC2012/fetchVOC2012.sh
#
# They go to FOLDER/VOCdevkit/VOC2012 (FOLDER is /data/datasets unless set; training reads the same variable), the
# archives to FOLDER/downloads. What is there is kept, an interrupted download is resumed, and an archive that was put
# into FOLDER/downloads by hand is used. Mirrors, separated by spaces and tried in their order in place of the usual
# ones: VOC2012_URLS, SEGMENTATION_CLASS_AUG_URLS, SEGMENTATION_AUG_URLS. VOC2012_MD5 is the checksum of another archive
# than the official one.
source "$(dirname "${BASH_SOURCE[0]}")/../fetch.sh"
begin "$@"

if [[ ! -d $voc/JPEGImages ]]; then
  name=VOCtrainval_11-May-2012.tar
  if fetch $name VOC2012_URLS "${VOC2012_MD5:-6cd6e144f989b92b3379bac3b3de84fd}" \
    http://host.robots.ox.ac.uk/pascal/VOC/voc2012/$name https://pjreddie.com/media/files/$name; then
    unpack $name
    images=$(find "$work/tree" -type d -name JPEGImages)
    [[ $images ]] || die "expected a folder JPEGImages in $data_root/downloads/$name, found none"
    mkdir -p "$voc/ImageSets"
    cd "${images%/*}"
    for folder in ImageSets/* [!IJ]*; do
      [[ -e $voc/$folder ]] || mv "$folder" "$voc/$folder"
    done
    mv JPEGImages "$voc" # last: where the images are, everything is
    cd "$data_root"
  fi
fi

if [[ ! -d $voc/SegmentationClassAug ]]; then
  if fetch SegmentationClassAug.zip SEGMENTATION_CLASS_AUG_URLS "" \
    "https://www.dropbox.com/s/oeu149j8qtbs1x0/SegmentationClassAug.zip?dl=1"; then
    unpack SegmentationClassAug.zip
    place_pngs SegmentationClassAug
  fi
fi

lists=$voc/ImageSets/SegmentationAug
if [[ ! -f $lists/train.txt || ! -f $lists/val.txt ]]; then
  if fetch SegmentationAug.zip SEGMENTATION_AUG_URLS "" \
    https://cs.uwaterloo.ca/~m62tang/rloss/SegmentationAug.zip; then
    unpack SegmentationAug.zip
    mkdir -p "$lists"
    for split in train val; do
      list=$(find "$work/tree" -name "$split.txt" | head -1)
      [[ $list ]] || die "expected $split.txt in $data_root/downloads/SegmentationAug.zip, found none"
      # One id a line, also from lists of "folder/ID.jpg folder/ID.png".
      sed -E 's/\r$//; s/[[:space:]].*//; s/.*\///; s/\.[a-z]+$//; /^$/d' "$list" >"$work/$split.txt"
      mv "$work/$split.txt" "$lists"
    done
  elif [[ -f $voc/ImageSets/Segmentation/val.txt && -d $voc/SegmentationClassAug ]]; then
    say "so val.txt becomes VOC's own list, and train.txt all other images with ground truth: the same images"
    mkdir -p "$lists"
    sort "$voc/ImageSets/Segmentation/val.txt" >"$lists/val.txt"
    ids SegmentationClassAug png | comm -23 - "$lists/val.txt" >"$lists/train.txt"
    exit_status=0
  fi
fi

finish JPEGImages SegmentationClassAug
