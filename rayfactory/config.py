"""Every setting of rayfactory: its type, its unit, its default and where the default is from.

Hydra composes `conf/` over these dataclasses, so an unknown key or a value of the wrong type is refused
before anything starts. `conf/` chooses among them; the defaults stand here.

Source of the defaults, where no other is given: SQL-Factory, sections 4 and 5.1.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Slot = Literal["strong", "local"]
"""One of the two models of a run: the strong one, or the cheap one that usually runs on one's own machines."""

SLOTS: tuple[Slot, ...] = ("strong", "local")

OMITTABLE = ("seed", "temperature", "top_p")
"""What a request says of the sampling, and some endpoints refuse."""

AGENTS = ("generation", "expansion", "table_selection", "seed_selection", "management", "critical")
"""The six agents, by their names in `ModelsConfig`."""


@dataclass
class DownloadConfig:
    """One file that a benchmark publishes."""

    url: str = "???"
    # Name under which it is kept; empty: the last part of the address.
    file_name: str = ""
    # Checksum that the benchmark publishes, in hexadecimal; empty: it publishes none.
    sha256: str = ""
    # Room that the file and what is in it need, in GB (10^9 bytes).
    disk_gb: float = 0.0


@dataclass
class BenchmarkConfig:
    """Which databases a run works on (`+benchmark=...`)."""

    name: str = "???"
    # Folder or file that holds the databases, or the address of one in object storage, such as s3://bucket/bird. Empty:
    # where `task=download` puts them, under `data_dir`.
    root: str = ""
    # Of `custom`: a database on a server, instead of `root`: postgresql://USER@HOST:PORT/DATABASE, with ?schema=NAME if
    # that is not public, or mysql://USER@HOST:PORT/DATABASE. A password in it is taken out before anything is written.
    url: str = ""
    # Environment variable that holds the password for `url`.
    password_env: str = "RAYFACTORY_DATABASE_PASSWORD"  # noqa: S105  the name of a variable
    # TPC-DS only: size of the generated data, 1 is 1 GB. 0.01 makes 24 tables in under a second.
    scale_factor: float = 0.01
    # Names of the databases to use, out of those found; empty: all of them.
    databases: list[str] = field(default_factory=list)
    # What `task=download` fetches and unpacks.
    downloads: list[DownloadConfig] = field(default_factory=list)
    # How to get the benchmark by hand: a sentence for the message that says it is missing.
    manual: str = ""


@dataclass
class ServingConfig:
    """vLLM on Ray Serve, started for the run and ended with it. Nothing here changes what is written."""

    # Weights to serve: a folder or a name on the model hub; `packaged`: the 270M model that a package carries.
    # Empty: nothing is started, and the model answers at its `base_url`.
    weights: str = ""
    # `gpu` or `cpu`.
    device: str = "gpu"
    # GPUs (or CPUs) of one replica: tensor_parallel_size x pipeline_parallel_size.
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    # Replicas; Ray Serve moves between the two as requests come and go.
    min_replicas: int = 1
    max_replicas: int = 1
    # Requests that a replica answers at once, at most; and how many of those, on average, call for another replica. The
    # model's max_in_flight has to be max_replicas x target_ongoing_requests for all replicas to be called for.
    max_ongoing_requests: int = 128
    target_ongoing_requests: int = 64
    # Share of a GPU's memory that vLLM takes.
    gpu_memory_utilization: float = 0.9
    # Memory for the cache of keys and values on a CPU, in GB.
    cpu_cache_gb: int = 1
    # What the weights are multiplied in, as vLLM has it; `auto`: as they are, and on a CPU without bf16 (AVX512-BF16 or
    # AMX), which reads prompts several times slower in it, `float32`.
    dtype: str = "auto"
    # Whether to leave out the compilation of the model: it starts sooner and answers slower.
    enforce_eager: bool = False
    # Port of the app on every node that runs one of Ray Serve's proxies.
    port: int = 8000
    # A model that has not come up after this many seconds is given up.
    startup_timeout_s: float = 1800.0


@dataclass
class ModelConfig:
    """One language model behind an OpenAI-compatible endpoint (`conf/model/`)."""

    # What requests name it by; empty: there is no such model in this run.
    name: str = ""
    # Address of the endpoint, up to and with `/v1`.
    base_url: str = ""
    # Environment variable that holds the key; empty: the endpoint asks for none.
    api_key_env: str = ""
    # Tokens that prompt and reply may have together.
    context_tokens: int = 32_768
    # Tokens of one reply, at most.
    max_output_tokens: int = 4_096
    # Whether it is sent messages, which its chat template makes a text of. `false`: it goes on from a plain text, as
    # models without such a template do (completions instead of chat completions).
    chat: bool = True
    # What the endpoint calls the bound on a reply's tokens: OpenAI's newer models take `max_completion_tokens` alone.
    max_tokens_field: str = "max_tokens"
    # What requests leave out because the endpoint refuses it: any of `seed`, `temperature`, `top_p`. Models that think
    # often take the default temperature alone.
    omit: list[str] = field(default_factory=list)
    # Prices in US dollars for a million tokens. A cached one is a prompt token that the endpoint had before; null: it
    # costs what any other costs.
    usd_per_million_in: float = 0.0
    usd_per_million_cached: float | None = None
    usd_per_million_out: float = 0.0
    # Requests in flight, at most. The client goes below it when the endpoint says that it is too many.
    max_in_flight: int = 64
    # What the account may ask for; null: not known, the endpoint's own answers decide.
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    # Seconds until one attempt is given up.
    timeout_s: float = 180.0
    # Attempts for one completion, before the request is given up. Waiting for a closed endpoint is no attempt.
    max_attempts: int = 6
    # Seconds without a single success after which a closed endpoint ends the run.
    max_pause_s: float = 3600.0
    # Whether the endpoint decodes by a grammar (vLLM's structured outputs), and it is used: what is written then
    # exists in the database.
    constrained: bool = False
    # Whether generation requests go as batch files, at `batch_price` times the price, within a day.
    batch: bool = False
    batch_price: float = 0.5
    batch_poll_s: float = 30.0
    # Seconds without another request after which those that were collected leave as a batch.
    batch_linger_s: float = 10.0
    serving: ServingConfig = field(default_factory=ServingConfig)


@dataclass
class AgentConfig:
    """Who one agent is: its rule, or a model with its prompt and its rule to fall back on."""

    # `rule`, `strong` or `local`.
    model: str = "rule"
    # Source: SQL-Factory, section 5.1.4.
    temperature: float = 0.3
    top_p: float = 1.0


def _author() -> AgentConfig:
    return AgentConfig(temperature=0.8, top_p=0.8)


@dataclass
class LearnedConfig:
    """What `models.method=learnedsqlgen` is trained for, anew in each process that writes."""

    # Rows of a wanted result: at least, and at most.
    min_rows: int = 10
    max_rows: int = 1_000
    # Queries that it learns from.
    num_queries: int = 4_000


@dataclass
class ModelsConfig:
    """Who writes and who decides (`models=...`)."""

    # `offline`: every agent on its rule, with no model at all.
    name: str = "offline"
    # How the Generation Agent writes: `factory`, as this package does; or, to compare with, by the method of others:
    # `sqlsmith`, `templates`, `learnedsqlgen`, or `omnisql`, which needs a model. The sets of these names (models=...)
    # leave out everything else too.
    method: str = "factory"
    learned: LearnedConfig = field(default_factory=LearnedConfig)
    # Share of the Generation Agent's requests that the local model answers where it is the strong one: so `omnisql` has
    # the same mix of models as a run that expands with the local one.
    local_share: float = 0.0
    # The paper has two models: a strong one that explores, and a cheap local one that does the rest.
    strong: ModelConfig = field(default_factory=ModelConfig)
    local: ModelConfig = field(default_factory=ModelConfig)
    generation: AgentConfig = field(default_factory=_author)
    expansion: AgentConfig = field(default_factory=_author)
    table_selection: AgentConfig = field(default_factory=AgentConfig)
    seed_selection: AgentConfig = field(default_factory=AgentConfig)
    management: AgentConfig = field(default_factory=AgentConfig)
    critical: AgentConfig = field(default_factory=AgentConfig)
    # Whether a query that fails goes back once, with the database's error, to the model that wrote it.
    self_correction: bool = True


@dataclass
class RoundConfig:
    """How much work one round holds. All of it changes what a run writes."""

    requests: int = 20
    # Requests of a round after the warm-up. null: as many as `requests`; where models write, as many as they take at
    # once, so that they do not wait for each other's round (`max_in_flight` when the run was begun).
    requests_after_warmup: int | None = None
    queries_per_request: int = 10
    # Whether a round is judged while it is being written, and the next one written while it is judged.
    overlap: bool = True


@dataclass
class ManagementConfig:
    """The Management Agent's rule: when to explore (GEN) and when to exploit (EXP)."""

    # Rounds of exploration at the start.
    warmup_rounds: int = 2
    # Whether it goes back to exploration after them, as the next three say.
    switch: bool = True
    # Back to exploration when the share of candidates that run falls to this.
    min_executability: float = 0.75
    # Back to exploration when a round's mean similarity exceeds the warm-up's by this much ...
    max_similarity_rise: float = 0.1
    # ... or reaches this.
    max_mean_similarity: float = 0.8
    # Rounds that a return to exploration lasts.
    exploration_rounds: int = 1
    # Saturation (paper, section 5.2.5): this share of the pool is from expansion ...
    saturation_expansion_ratio: float = 0.8
    # ... while the pool-wide similarity rises over this many rounds.
    saturation_rounds: int = 8
    # Rounds in a row without one admitted query after which a run ends as `exhausted`.
    exhausted_rounds: int = 8


@dataclass
class TableSelectionConfig:
    """The Table Selection Agent: which tables a generation request is about."""

    # At most this many tables a request, connected by foreign keys.
    max_tables: int = 8
    # Whether tables that the pool uses least come first; without, chance decides.
    balanced: bool = True


@dataclass
class SeedSelectionConfig:
    """The Seed Selection Agent: which pool queries an expansion request builds on."""

    num_seeds: int = 3


@dataclass
class CriticConfig:
    """The Critical Agent: what is admitted."""

    # Nearest neighbours that make up a candidate's similarity.
    k: int = 10
    # Candidates drawn by cosine similarity for each of the k neighbours.
    candidates_per_neighbour: int = 20
    # Weights of the hybrid similarity (equation 3); they sum to 1.
    token_weight: float = 0.6
    ast_weight: float = 0.3
    embedding_weight: float = 0.1
    # An expansion query nearer than this to a query of the pool is rejected; 1: none is.
    max_similarity: float = 0.9
    # Whether everything that runs is admitted, what is in the pool already too.
    admit_all: bool = False


@dataclass
class EmbeddingConfig:
    """The encoder behind the embedding similarity."""

    # `all-MiniLM-L6-v2` is carried by a package and needs no download; else a folder or a model name of
    # sentence-transformers.
    model: str = "all-MiniLM-L6-v2"
    # Where queries are encoded: `cpu`, `gpu`, or `auto`: on a GPU where this machine has one.
    device: str = "auto"
    # With what: `openvino` (CPU), `sentence-transformers`, or `auto`: OpenVINO on a CPU, if it takes the model.
    backend: str = "auto"
    # Of what is multiplied: `fp32`; `bf16`, on a GPU, or on a CPU that has it (AVX512-BF16 or AMX) with OpenVINO;
    # `fp16`, on a GPU; or `auto`: bf16 on a CPU that has it, fp32 on one that does not, on a GPU as the model is.
    # Device, backend and precision are decided when a run is begun, and a run keeps to them: vectors of two kinds are
    # not compared.
    precision: str = "auto"
    # Share of a GPU that an encoder holds, of which there is one on each node with a GPU.
    gpu_share: float = 0.25
    # Candidates that are judged together: run, encoded and handed to the critic as one block. A vector does not depend
    # on it; it is part of what makes two runs equal, so it does not follow the hardware.
    batch_size: int = 32
    # Tokens beyond this are cut off. MiniLM was trained with 128 and takes up to 512; its package sets 256.
    max_tokens: int = 256


@dataclass
class ExecutionConfig:
    """Bounds on one statement."""

    timeout_s: float = 5.0
    # A result with more rows than this is rejected.
    max_rows: int = 100_000
    # And one with more values: rows times columns.
    max_cells: int = 5_000_000
    # Memory of the database engine for one statement.
    memory_mb: int = 2048


@dataclass
class ProfileConfig:
    """How closely the content of a database is looked at for hints."""

    # Whether those who write know what columns hold; without, prompts show no values and the rules look at no rows.
    content: bool = True

    # Rows sampled from a table; smaller tables are read whole.
    max_rows: int = 20_000
    # Columns of one table beyond this make it unusable for a prompt; the message says what to do.
    max_columns: int = 1_999


@dataclass
class ClusterConfig:
    """How a run uses Ray (`cluster=...`). Nothing here changes what is written."""

    # Address of a running Ray cluster (`auto` for the one of this machine); empty: start one here.
    address: str = ""
    # CPUs that a cluster started here has; 0: those of the machine.
    num_cpus: int = 0
    # Workers of each kind; 0: one for each CPU of the cluster.
    workers: int = 0
    # How nodes get databases that are files: `there` has them read at the same path on every node, as on a file system
    # that the nodes share; `shipped` brings each to a node from the one that the run starts on, once, and keeps it.
    databases: str = "there"
    # Folder on each node for databases that are shipped. Empty: one of its own in the folder for temporary files.
    database_cache: str = ""
    # What it may hold, in GB; what was not used for longest goes first.
    database_cache_gb: float = 100.0
    # Actors that hold the index; databases are spread over them.
    index_shards: int = 1
    # Vectors that one actor holds; a database that has more fans out over several. With all-MiniLM-L6-v2 a million take
    # 1.5 GB, and twice that for some seconds while an index grows.
    vectors_per_actor: int = 2_000_000
    # Memory of a GPU that each of these actors may take for its search, in GB; it needs the package faiss-gpu. 0: CPUs
    # search.
    index_gpu_memory_gb: float = 0.0
    # Whether the Ray dashboard is started with a local cluster.
    dashboard: bool = True


@dataclass
class EvaluationConfig:
    """How `task=evaluate_text2sql` judges. Nothing here changes what a run writes."""

    # File of questions with their gold queries, as Spider or BIRD has them. Empty: the dev set beside the databases.
    questions: str = ""
    # File with a prediction for each question. Empty: the model is asked.
    predictions: str = ""
    # Whose definition of a right result counts: `bird`, `spider`, or `auto`: that of the benchmark.
    rule: str = "auto"
    # Which of the two models answers: `strong` or `local`.
    model: str = "local"
    # How it is asked: `plain`, `qwen2.5-coder` or `codes`; the last goes with models that are no chat (chat=false).
    prompt: str = "plain"
    # Seconds that a gold query and a prediction may run each. BIRD's evaluation has 30.
    timeout_s: float = 30.0


@dataclass
class TranslationConfig:
    """How `task=translate` finds questions for the queries of a pool. Nothing here changes what a run writes."""

    # Who writes them: `rule`, `local` or `strong`; `auto`: the local model where it has a name, else the strong one
    # where that has one, else the rule.
    model: str = "auto"
    # Who says whether a question and a query belong together; `auto`: whoever writes.
    verifier: str = "auto"
    # File of questions with their queries, as Spider's or BIRD's train.json, of which a model is shown those with the
    # most similar queries. Empty: none.
    examples: str = ""
    # How many. Source: SQL-Factory, section 5.3.1.
    num_examples: int = 5
    # Of the sampling of questions; the verifier does not sample.
    temperature: float = 0.3
    # Whether a query that does not fit its question is cut down to what the question asks.
    simplify: bool = True
    # Share of the queries, beside the first 64, with which the verifier is asked about one pair that is known to be
    # right and one that is known to be wrong.
    control_share: float = 0.05
    # Whether all ends where these show that the verifier cannot tell.
    stop_at_bad_verifier: bool = True
    # Of an export with questions: the folder of the translation that it has them from. Empty: translation in the run's.
    folder: str = ""


@dataclass
class ClusteringConfig:
    """How `task=cluster_queries` tunes and judges an encoder. Nothing here changes what a run writes."""

    # File or folder of labelled queries that it is judged by.
    sets: str = ""
    # SQL dialect of those.
    dialect: str = "sqlite"
    # What is brought together: `similar`, each query with those most similar to it by the hybrid similarity, as in
    # SQL-Factory, section 5.4; or `rewritten`, each with itself as somebody else would write it.
    pairs: str = "similar"
    # Of `similar`: the nearest queries that count as similar to one.
    positives: int = 20
    # Pairs of a corpus that are learnt from, at most.
    max_pairs: int = 100_000
    # Times that each of them is.
    epochs: int = 1
    # Pairs at a time; the other queries of a batch are what one is told apart from.
    batch_size: int = 64
    # Rate at the end of the warm-up, which takes this share of the steps; it falls to 0.
    learning_rate: float = 2e-5
    warmup_share: float = 0.1
    # Factor on the cosines in the loss: the inverse of its temperature. At 1, all others of a batch count about alike,
    # as BetaCV counts them; at 20, those that are nearest.
    scale: float = 20.0
    # Tokens of a query that are read while it learns.
    max_tokens: int = 128
    # Layers that learn, from the last on; the others stay as they are. 0: all of them, and the embeddings of tokens.
    layers: int = 0


@dataclass
class TrainingConfig:
    """How `task=train_text2sql` tunes a model. Nothing here changes what a run writes.

    Source of the recipe: SQL-Factory, section 5.3.2.
    """

    # Files of questions with their queries, as Spider or BIRD has them. Empty: what `task=translate` wrote in the run's
    # folder, translation/pairs.json.
    questions: list[str] = field(default_factory=list)
    # The model to begin with: a folder or a name on the model hub; `packaged`: the 270M model that a package carries.
    model: str = "packaged"
    # How it is asked, as `evaluation.prompt`: it has to be asked so afterwards too.
    prompt: str = "plain"
    # `ray` trains here; `llamafactory` writes a folder that LLaMA-Factory trains with by the same recipe.
    trainer: str = "ray"
    # Processes that train together; 0: one for each GPU of the cluster, and without any GPU a single one with the CPUs
    # of its node.
    workers: int = 0
    # Times that each question is learnt from.
    epochs: int = 3
    # Questions of a step, over all workers.
    batch_size: int = 256
    # Of these, questions about one database that come together, at most; they share one reading of its schema, which is
    # most of the work. 1: chance alone decides which questions a step has, as in the paper, and each is read by itself.
    together: int = 16
    # Rate at the end of the warm-up, which takes this share of the training; it falls to 0 as a cosine does.
    learning_rate: float = 3e-5
    warmup_share: float = 0.05
    # AdamW.
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    # Length that the gradient of a step is cut to.
    max_grad_norm: float = 1.0
    # Tokens of a question with its prompt and query; a longer one is left out. Of a row of several questions too.
    max_tokens: int = 4096
    # Tokens of the reply that is learnt; a question with a longer one is left out. null: no limit. Where time is short,
    # short ones give more: each token costs a look at the whole vocabulary.
    max_reply_tokens: int | None = None
    # Hours that the steps may take; null: no limit. The learning rate then goes by the time that has passed, where that
    # is the larger share.
    max_hours: float | None = None
    # What is multiplied in, while the weights that are tuned are fp32: `fp32`; `bf16`, on a GPU or a CPU that has it
    # (AVX512-BF16 or AMX); or `auto`: bf16 where there is.
    precision: str = "auto"
    # Whether weights are divided among the workers (FSDP), for a model that does not fit into one GPU.
    shard: bool = False
    # Whether what layers give is worked out again instead of being kept: a third slower, and of far less memory.
    recompute: bool = False


@dataclass
class DisplayConfig:
    """What a person sees while it runs."""

    # `auto`: a live panel on a terminal and plain lines elsewhere; or `panel`, `lines`, `none`.
    mode: str = "auto"
    # Seconds between two plain lines.
    interval_s: float = 5.0


@dataclass
class Config:
    """One run."""

    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    round: RoundConfig = field(default_factory=RoundConfig)
    management: ManagementConfig = field(default_factory=ManagementConfig)
    table_selection: TableSelectionConfig = field(default_factory=TableSelectionConfig)
    seed_selection: SeedSelectionConfig = field(default_factory=SeedSelectionConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    display: DisplayConfig = field(default_factory=DisplayConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    translation: TranslationConfig = field(default_factory=TranslationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    # What to do: `generate` grows a pool, `preview` tells of it before, `download` fetches a benchmark, `report` shows
    # what a pool is like, `compare` puts some side by side, `export` hands one to another tool, `translate` finds
    # questions for its queries, `train_text2sql` tunes a model with those, `evaluate_text2sql` says how well a model
    # answers questions, `cluster_queries` tunes an encoder and says how well it clusters.
    task: str = "generate"
    # Rows that R ends with, exactly; null: until the pool is saturated.
    target: int | None = 1000
    seed: int = 0
    # Where the pool is kept; the same command on the same folder resumes. The command line's default: runs/<benchmark>.
    run_dir: str = "???"
    # Where downloaded and generated databases and cached profiles are kept. Empty: $XDG_CACHE_HOME/rayfactory.
    data_dir: str = ""
    # Stop before a round that would pass this many candidates; null: no limit.
    max_candidates: int | None = None
    # Stop before this much is spent on models, in US dollars; null: no limit.
    max_cost_usd: float | None = None
    # Of `task=export`: `jsonl`, `csv`, `sql`, `huggingface`, `bird`, `spider`, `alpaca`, `sharegpt` or `workload`.
    format: str = "jsonl"
    # The folder that an export, a report, a comparison, a translation or a tuned model is written to. Empty:
    # exports/<format>, report, translation, model or llamafactory in the run's, or compare, evaluation or clustering
    # where the command is given. An export's must not be there.
    output: str = ""
    # How rows are divided into train and test: `none`, or so that a `skeleton` or a `database` is in one of the two.
    split: str = "none"
    # Share of the rows that go to test.
    test_share: float = 0.1
    # Whether an export has the queries that `task=translate` found questions for, with these, and no others.
    questions: bool = False
    # Of `task=compare`: run directories, and files of queries (JSON, JSON lines, CSV, SQL), two or more.
    runs: list[str] = field(default_factory=list)
    # SQL dialect of those files: `duckdb`, `sqlite`, `postgres` or `mysql`.
    dialect: str = "duckdb"
    # Encoders that a report and a comparison give the Vendi score for, as `embedding.model`. Empty: that of the run, or
    # `embedding.model`.
    encoders: list[str] = field(default_factory=list)
