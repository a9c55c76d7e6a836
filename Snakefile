# train -> evaluate -> report: one page for each task of each paper in replications/.
#   snakemake reports/dqn_pong.html --config budget=smoke
#
# Which papers, variants and tasks there are stands in replications/*/paper.yaml; what is asked of them in config.yaml.

from common.beginning import begin
from common.terminal import quieten
from common.workflow import SIZES, prepare

quieten(workflow)


configfile: "config.yaml"


flow = prepare(workflow, config)
RUN = f"{flow.config['results']}/{{agent}}/{{task}}/{{size}}/seed{{seed}}"  # as common.papers.run_dir

# A scheduler signals all processes of a job: the shell waits for the training, which saves, and the log hears the end of it.
# No terminal or pipe that is gone fails a job.
shell.prefix("set -euo pipefail; trap : HUP TERM; ")
TO_LOG = " 2>&1 | (trap '' HUP INT PIPE TERM; tee {log:q} || true)"


onstart:
    begin(flow, workflow)


wildcard_constraints:
    agent="|".join(flow.agents),
    task="|".join(flow.tasks),
    target=flow.pages,
    summary="|".join(flow.summaries.names),
    size=SIZES,
    seed="[1-9][0-9]*",


localrules:
    all,
    report,
    summary,
    index,
    site,


rule all:
    default_target: True
    input:
        expand("reports/{target}.html", target=flow.config["targets"]),
        "reports/index.html",


# Work in progress lies in the run's folder checkpoint/, which is no output: Snakemake deletes outputs of an interrupted
# job. The trainer goes on from there by itself when it is started again (exit code 75: stopped by a signal, all saved).
rule train:
    output:
        run=f"{RUN}/run.json",
        curve=f"{RUN}/curve.csv",
        episodes=f"{RUN}/episodes.csv",
        timing=f"{RUN}/timing.csv",
        model=f"{RUN}/model.safetensors",
    log:
        "logs/{agent}/{task}/{size}/seed{seed}/train.log",
    wildcard_constraints:
        task=flow.trained,
    retries: flow.needs.attempts
    conda:
        "envs/train.yaml"
    threads: flow.needs.threads
    resources:
        gpu=flow.gpus,
        mem_mb=flow.needs.mem_mb,
        runtime=flow.needs.runtime,
        cpus_per_task=flow.needs.cpus,
        slurm_partition=flow.needs.partition,
        before=flow.before_training,  # these two are no params: another device trains nothing again
        flags=flow.train_flags,
    params:
        settings=flow.settings,  # trains again when they change
        trainer=flow.trainer,
        starts_over=flow.starts_over,
        results=lambda wildcards, output: Path(output.run).parents[4],
    shell:
        "run=$(dirname {output.run:q}); {resources.before}"
        "python -m {params.trainer} {resources.flags} --threads {threads} --results {params.results:q}"
        f"{TO_LOG}"


# A task with claims has a script of its own, no weights and no evaluation. It takes minutes: one that was stopped starts over.
rule claims:
    output:
        run=f"{RUN}/run.json",
        measures=f"{RUN}/measures.json",
        points=f"{RUN}/points.csv",
    log:
        "logs/{agent}/{task}/{size}/seed{seed}/claims.log",
    wildcard_constraints:
        task=flow.claims,
    conda:
        "envs/train.yaml"
    threads: flow.needs.threads
    resources:
        mem_mb=flow.needs.mem_mb,
        runtime=flow.needs.runtime,
        slurm_partition=flow.needs.partition,
        before=flow.before_training,
        flags=flow.claims_flags,
    params:
        settings=flow.settings,  # runs again when they change
        trainer=flow.trainer,
        starts_over=flow.starts_over,
        results=lambda wildcards, output: Path(output.run).parents[4],
    shell:
        "run=$(dirname {output.run:q}); {resources.before}"
        "python -m {params.trainer} {resources.flags} --threads 1 --results {params.results:q}"
        f"{TO_LOG}"


rule evaluate:
    input:
        flow.read_in_evaluation,
        run=f"{RUN}/run.json",
        model=f"{RUN}/model.safetensors",
    output:
        evaluation=f"{RUN}/evaluation.json",
        video=f"{RUN}/episode.mp4",
        best=touch(f"{RUN}/best.mp4"),  # empty where no episode is better than the median
        values=touch(f"{RUN}/values.json"),  # empty where the network says nothing of single actions
    log:
        "logs/{agent}/{task}/{size}/seed{seed}/evaluate.log",
    conda:
        "envs/train.yaml"
    resources:
        gpu=flow.gpus,
        mem_mb=flow.needs.evaluation_mem_mb,
        runtime=flow.needs.evaluation_runtime,
        slurm_partition=flow.needs.partition,
        flags=flow.evaluation_flags,
    params:
        protocol=flow.protocol,  # evaluates again when it changes
        folder=lambda wildcards, input: Path(input.run).parent,
    shell:
        "python -m common.runs.evaluate {params.folder:q} {resources.flags}" f"{TO_LOG}"


rule report:
    input:
        flow.page_runs,
    output:
        "reports/{target}.html",
    log:
        "logs/reports/{target}.log",
    retries: 0
    conda:
        "envs/report.yaml"
    params:
        of=flow.page_of,
        results=flow.page_results,
        seen=flow.page_seen,
    shell:
        "python -m reports.render {wildcards.target} --results {params.results:q} {params.of}"
        " --out {output:q}"
        f"{TO_LOG}"


# Every paper against every task, from whatever runs there are: it never trains.
rule index:
    input:
        flow.index_pages,
    output:
        "reports/index.html",
    log:
        "logs/reports/index.log",
    retries: 0
    conda:
        "envs/report.yaml"
    params:
        seen=flow.index_seen,
        results=flow.config["results"],
    shell:
        "python -m reports.index --results {params.results:q} --out {output:q}" f"{TO_LOG}"


# Pages about many runs: of a paper and of a task, which train nothing; of a printed table, which asks for all of its runs.
rule summary:
    input:
        flow.summaries.runs,
    output:
        "reports/{summary}.html",
    log:
        "logs/reports/{summary}.log",
    retries: 0
    conda:
        "envs/report.yaml"
    params:
        page=flow.summaries.page,
        seen=lambda wildcards: flow.summaries.seen(wildcards.summary),
        results=flow.config["results"],
    shell:
        "python -m {params.page} {wildcards.summary} --results {params.results:q} --out {output:q}"
        f"{TO_LOG}"


# All pages with results in one folder, for any static host: `snakemake site`.
rule site:
    output:
        "site/index.html",
    log:
        "logs/reports/site.log",
    retries: 0
    conda:
        "envs/report.yaml"
    params:
        seen=flow.index_seen,
        results=flow.config["results"],
    shell:
        "python -m reports.site --results {params.results:q} --out $(dirname {output:q})" f"{TO_LOG}"
