"""The help texts, kept apart from what they describe so that asking for help imports nothing heavy."""

from __future__ import annotations

__all__ = ["COMMANDS", "OVERVIEW"]

OVERVIEW = """\
usage: tlkit COMMAND [...]

Adapt a model to a domain that has no labels.

  fit       train, choose a checkpoint without target labels, test, write a run folder
  validate  score a checkpoint on the validation splits
  test      score a checkpoint on the held-out test splits
  predict   write a checkpoint's predictions, one CSV file a domain
  ray       fit, validate or test in several processes of a Ray cluster
  shards    write the domains of a recipe as shards, for data larger than memory
  recipes   list the recipes that come with tlkit
  copy      copy a recipe to a file of your own
  list      list the backbones, losses, tasks, data modules, fine-tuning strategies, schedules or
            callbacks, or what one takes

  tlkit fit --config digits/mnist_to_optdigits_mmd     runs with no download
  tlkit COMMAND --help                                 more on a command"""

_PARTS = """\
The parts of a recipe, each a class by name (tlkit list ...) or by import path (my_file.MyClass);
what a class takes is shown by tlkit list data Digits, tlkit list losses MMD, ...:
  data              the domains and their roles        --data.sources='[photo]' --data.batch_size=64
  model.backbone    x -> features                      --model.backbone.channels='[16, 32]'
  model.task        features -> outputs, loss          --model.task=Classification
  model.adaptation  a list of losses                   --model.adaptation.MMD.weight=0.5
                                                       --model.adaptation='[]' is plain training
  model.finetuning  what of the backbone learns, when  --model.finetuning=GradualUnfreezing
Common overrides, as --key=value or --key value, the value in YAML:
  --seed_everything=1                    --model.optimizer.lr=0.001
  --trainer.max_steps=1000               --trainer.devices=4
  --trainer.precision=bf16-mixed         --logger=wandb (or tensorboard, mlflow)
  --runs=DIR                             folder of the runs; default: runs
  --run_id=NAME                          default: made from the time
  --recipe=NAME                          folder in it; default: the recipe's name"""

_CHECKPOINT = """\
  --config     RUN/config.yaml, or a recipe's name or file
  --ckpt_path  the checkpoint; default: RUN/checkpoints/best.ckpt beside the config
Every other option overrides the recipe as in 'tlkit fit --help'."""

COMMANDS = {
    "fit": f"""\
usage: tlkit fit --config RECIPE [--key=value ...]
       tlkit fit --resume RUN [--trainer.max_steps=N ...]

Train, choose a checkpoint, test it on the held-out splits, and write a run folder:
config.yaml, metrics.csv, checkpoints/best.ckpt and last.ckpt, summary.json.

  --config        a recipe's name (tlkit recipes) or a YAML file
  --resume        a run folder to go on in; with --config and --run_id, 'auto': go on with
                  that run if it has a checkpoint, else start it (for jobs that are restarted)
  --start_from    a run folder or checkpoint whose weights training starts from; with
                  --data.sources='[]' it adapts to a target without the sources
  --print_config  print the resolved recipe and stop
  --help-all      the options of the model and the trainer too

{_PARTS}

Examples:
  tlkit fit --config digits/mnist_to_optdigits_mmd
  tlkit fit --config digits/mnist_to_optdigits_mmd --model.adaptation.MMD.weight=0.5 --run_id=half
  tlkit fit --config runs/digits/mnist_to_optdigits_mmd/half/config.yaml
  torchrun --nproc-per-node=4 -m tlkit.cli fit --config mine.yaml""",
    "validate": f"""\
usage: tlkit validate --config RUN/config.yaml [--ckpt_path FILE] [--key=value ...]

Score a checkpoint on the validation splits of all domains and print a table.

{_CHECKPOINT}""",
    "test": f"""\
usage: tlkit test --config RUN/config.yaml [--ckpt_path FILE] [--key=value ...]

Score a checkpoint on the held-out test splits of all domains and print a table. Nothing is written.

{_CHECKPOINT}""",
    "predict": f"""\
usage: tlkit predict --config RUN/config.yaml [--ckpt_path FILE] [--key=value ...]

Write RUN/predictions/<domain>.csv for the test splits, and for all rows of a domain without labels:
index, name where rows have one, prediction, class, probabilities/<class>; of a regression a column a quantity.
For a retrieval also RUN/predictions/<source>.reference.csv, the data base that is searched.
In a file's name, whatever of a domain's name is no letter, digit or one of _ . & + - is _; where that
makes two names the same, each is followed by the number of its domain.
Files that exist are not written over: move RUN/predictions away to predict again. Runs on one device.

{_CHECKPOINT}""",
    "ray": """\
usage: tlkit ray fit|validate|test [--workers N] [--gpus-per-worker 0|1] [--cpus-per-worker N] ...

Run 'tlkit fit ...' in N processes of a Ray cluster, by Ray Train: the one that runs here or that
RAY_ADDRESS names, or one that is started for this command. The working directory must be there on
every node, and --runs on a file system that they share. Needs: pip install "tlkit[ray]"

  --workers          processes; default: 1
  --gpus-per-worker  default: 1 in a cluster with GPUs, else 0
  --cpus-per-worker  for the process and its loaders; default: 1

Every other option is that of 'tlkit fit --help'.

Examples:
  tlkit ray fit --config digits/mnist_to_optdigits_mmd --workers 2
  ray job submit --working-dir . -- tlkit ray fit --config mine.yaml --runs=/shared/runs --workers 8""",
    "shards": """\
usage: tlkit shards --config RECIPE --out DIR [--megabytes N] [--data.key=value ...]

Write the domains of a recipe (its sources, targets and also_test) as tar files, DIR/<domain>/*.tar,
in a random order, each with an index beside them. Files of images go into them as they are; of other
data what is read to evaluate, an array a row. Groups and published splits go with them. They are read
by ImageShardDomains or ArrayShardDomains, on a disk or from object storage. A folder of a domain that
exists is not written over.

  --config     a recipe's name (tlkit recipes) or a YAML file; only its data is looked at
  --out        the folder to write into
  --megabytes  how large a shard becomes; default: 256

Examples:
  tlkit shards --config vision/pacs_photo_to_art_painting_mcc --out /data/pacs_shards
  tlkit shards --config mine.yaml --out shards --data.also_test='[night]' --megabytes 64""",
    "recipes": """\
usage: tlkit recipes [PATTERN]

List the recipes whose name or title contains PATTERN. 'tlkit recipes launch' lists the files that
start a recipe under torchrun, SLURM, Ray, Kubernetes or SkyPilot.""",
    "copy": """\
usage: tlkit copy RECIPE FILE

Copy a recipe to a file of your own, to change and run with: tlkit fit --config FILE
A launch file is copied in the same way: tlkit copy launch/slurm.sbatch mine.sbatch""",
    "list": """\
usage: tlkit list backbones|losses|tasks|data|finetuning|schedules|callbacks [NAME]

List the classes that a recipe can name, with the paper or the source of each; with NAME, show what
that class takes: its arguments with their types, defaults and meanings. NAME may be an import path.

Examples:
  tlkit list data
  tlkit list data Digits
  tlkit list callbacks ModelSelection
  tlkit list losses my_file.MyLoss""",
}
