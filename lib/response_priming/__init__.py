"""Response priming in the distillation of language models. The map: from the top floor down, a line a room.

    cli                      the command line, and how it executes a notebook
    machines                 what a profile takes before it runs, and what the machine at hand can do
    studies                  on request, beside the paper: doctor, search, ladders, related methods, exploring, two runs
    report                   the page
    notebooks, claims        which notebooks are stale; what the paper claims, with a verdict on each
    compare                  all arms side by side
    distill, evaluate        an arm's students are trained; they answer, and rules score the answers
    methods                  what a student learns from, and the objective; related methods, a file each
    attention, attribution   where students look; which tokens drive the teacher
    generate                 the teacher responds; the store of its responses, each token with its signal
    audit                    the released study, counted again
    engines                  what runs a model, a file each: transformers, vLLM, a server, a cluster
    models, prompts, problems, scoring, extraction, style    shared by stages
    stats                    every interval, test and correction
    artifacts, provenance    what a stage wrote, by which recipe; which code and machine made it
    params                   every parameter, a profile, what a notebook is given, and what it means on this machine
    arms                     what each line of the results table is
    experts                  a model whose feed-forward layers are cut into experts
    progress, errors, paths  the ground

A room's `__init__.py` is its face: what other rooms and notebooks take. It is imported when it is used, since some of
it takes seconds.

The spine, about an hour's reading, in order: arms, params/sections, problems, prompts, engines/base, generate/teacher,
generate/store, methods/examples, methods/losses, methods/student, distill/training, distill/trainer, evaluate/answers,
extraction, scoring, stats, compare/comparison, compare/tables.
"""

import logging

# peft imports bitsandbytes wherever it is installed, which then warns that an optional CPU kernel is not: noise in
# every command and notebook, whether or not it has to do with quantisation.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
