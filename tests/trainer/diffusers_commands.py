"""Two command lines for diffusers' training scripts, as published; BASE and DATA are placeholders."""

import shlex

TUNE = shlex.split("""
    --tune --pretrained_model_name_or_path=BASE --dataset_name=DATA --dataloader_num_workers=8 --width=256 --height=256
    --center_crop --random_flip --train_batch_size=1 --gradient_accumulation_steps=4 --max_train_steps=1000
    --learning_rate=1e-04 --lr_scheduler="cosine" --lr_warmup_steps=0 --experiments_name='sketch_ray_tune' --seed=1337
    --mixed_precision='fp16' --enable_xformers_memory_efficient_attention --gpus_per_trial=1
""")
TRAIN = shlex.split("""
    --pretrained_model_name_or_path=BASE --dataset_name=DATA --dataloader_num_workers=8 --width=256 --height=256 --center_crop
    --random_flip --train_batch_size=2 --gradient_accumulation_steps=4 --num_train_epochs=10 --learning_rate=1e-03
    --lr_scheduler="cosine" --lr_warmup_steps=500 --output_dir="LoRA_sketch_output" --experiments_name='sketch'
    --checkpointing_steps=5000 --validation_prompt="a man swimming in the sea" --validation_epochs=1 --num_validation_images=2
    --seed=1337 --enable_xformers_memory_efficient_attention
""")


def with_base_and_data(flags: list[str], base: object, data: object) -> list[str]:
    return [flag.replace("=BASE", f"={base}").replace("=DATA", f"={data}") for flag in flags]
