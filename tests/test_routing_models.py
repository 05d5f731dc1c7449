"""Who goes where in networks that people have: names and shapes as their libraries write them.

What each parameter is was read from the recipes: nanoGPT's and Muon's (matrices of the inside, not
embeddings, not the head), timm's and Hugging Face's (no decay of biases, norms, scales, tables of
positions), and from the networks' own code. Blocks of the same form are shown once or twice.
"""

from __future__ import annotations

import numpy as np
import pytest

import optkern

# a parameter's name, its shape, and the first letter of what it is
LETTERS = {kind[0]: kind for kind in ("embedding", "matrix", "head", "bias", "norm", "scale")}
LETTERS |= {"v": "vector", "a": "array"}
MODELS = {
    "ResNet": "conv1.weight 64,3,7,7 a; bn1.weight 64 n; bn1.bias 64 n; "
    "layer1.0.conv1.weight 64,64,3,3 a; layer1.0.bn1.weight 64 n; layer1.1.conv1.weight "
    "64,64,3,3 a; layer2.0.downsample.1.weight 128 v; fc.weight 10,128 h; fc.bias 10 b",
    "ResNet without a head": "conv1.weight 64,3,7,7 a; layer4.0.conv1.weight 64,64,3,3 a; "
    "layer4.0.conv2.weight 64,64,3,3 a; layer4.1.conv1.weight 64,64,3,3 a; "
    "layer4.1.conv2.weight 64,64,3,3 a",
    "VGG": "features.0.weight 64,3,3,3 a; features.0.bias 64 b; classifier.0.weight 40,250 "
    "m; classifier.0.bias 40 b; classifier.3.weight 40,40 m; classifier.3.bias 40 b; "
    "classifier.6.weight 10,40 h; classifier.6.bias 10 b",
    "MobileNetV3": "features.0.0.weight 16,3,3,3 a; features.1.block.1.fc1.weight 8,16,1,1 "
    "a; classifier.0.weight 102,57 m; classifier.0.bias 102 b; classifier.3.weight 10,102 h",
    "SqueezeNet": "features.3.squeeze.weight 16,96,1,1 a; classifier.1.weight 10,16,1,1 h",
    "ConvNeXt": "features.0.0.weight 96,3,4,4 a; features.1.0.layer_scale 96,1,1 s; "
    "features.1.0.block.3.weight 384,96 m; features.1.0.block.3.bias 384 b; "
    "classifier.0.weight 96 v; classifier.2.weight 10,96 h",
    "ViT (torchvision)": "class_token 1,1,8 e; conv_proj.weight 8,3,4,4 a; "
    "encoder.pos_embedding 1,17,8 e; encoder.layers.encoder_layer_0.ln_1.weight 8 n; "
    "encoder.layers.encoder_layer_0.self_attention.in_proj_weight 24,8 m; "
    "encoder.layers.encoder_layer_0.mlp.0.weight 32,8 m; heads.head.weight 10,8 h",
    "ViT (timm)": "cls_token 1,1,8 e; pos_embed 1,17,8 e; patch_embed.proj.weight 8,3,4,4 a; "
    "blocks.0.norm1.weight 8 n; blocks.0.attn.qkv.weight 24,8 m; blocks.0.attn.qkv.bias 24 b; "
    "blocks.0.ls1.gamma 8 n; blocks.0.mlp.fc1.weight 32,8 m; norm.weight 8 n; head.weight "
    "10,8 h",
    "ViT without a head": "cls_token 1,1,8 e; blocks.0.attn.qkv.weight 24,8 m; "
    "blocks.0.mlp.fc2.weight 8,32 m; blocks.1.attn.qkv.weight 24,8 m; blocks.1.mlp.fc2.weight "
    "8,32 m; norm.weight 8 n",
    "Swin": "features.0.0.weight 9,3,4,4 a; features.1.0.attn.relative_position_bias_table "
    "49,3 b; features.1.0.attn.logit_scale 3,1,1 s; features.1.0.attn.qkv.weight 27,9 m; "
    "features.2.reduction.weight 18,36 m; head.weight 10,18 h",
    "DenseNet": "features.conv0.weight 64,3,7,7 a; features.norm0.weight 64 n; "
    "features.denseblock1.denselayer1.conv1.weight 128,64,1,1 a; classifier.weight 10,128 h",
    "GoogLeNet": "conv1.conv.weight 64,3,7,7 a; aux1.conv.conv.weight 128,64,1,1 a; "
    "aux1.fc1.weight 102,204 m; aux1.fc1.bias 102 b; aux1.fc2.weight 10,102 h; "
    "aux2.fc1.weight 102,204 m; aux2.fc2.weight 10,102 h; fc.weight 10,64 h; fc.bias 10 b",
    "Inception": "Conv2d_1a_3x3.conv.weight 32,3,3,3 a; AuxLogits.conv0.conv.weight "
    "128,32,1,1 a; AuxLogits.fc.weight 10,128 h; Mixed_7a.branch3x3_1.conv.weight 32,128,1,1 "
    "a; fc.weight 10,32 h; fc.bias 10 b",
    "FCN": "backbone.conv1.weight 64,3,7,7 a; classifier.0.weight 32,64,3,3 a; "
    "classifier.4.weight 21,32,1,1 h; aux_classifier.0.weight 16,64,3,3 a; "
    "aux_classifier.4.weight 21,16,1,1 h",
    "BERT to classify": "bert.embeddings.word_embeddings.weight 90,8 e; "
    "bert.embeddings.LayerNorm.weight 8 n; bert.encoder.layer.0.attention.self.query.weight "
    "8,8 m; bert.encoder.layer.0.attention.output.dense.weight 8,8 m; "
    "bert.pooler.dense.weight 8,8 m; classifier.weight 2,8 h; classifier.bias 2 b",
    "BERT to train first": "bert.embeddings.word_embeddings.weight 90,8 e; "
    "bert.encoder.layer.0.output.dense.weight 8,32 m; cls.predictions.bias 90 b; "
    "cls.predictions.transform.dense.weight 8,8 m; cls.predictions.decoder.weight 90,8 h; "
    "cls.seq_relationship.weight 2,8 h",
    "BERT alone": "embeddings.word_embeddings.weight 90,8 e; "
    "encoder.layer.0.output.dense.weight 8,32 m; encoder.layer.0.intermediate.dense.weight "
    "32,8 m; pooler.dense.weight 8,8 m; pooler.dense.bias 8 b",
    "RoBERTa, tied": "roberta.embeddings.word_embeddings.weight 90,8 e; "
    "roberta.encoder.layer.0.output.dense.weight 8,32 m; lm_head.bias 90 b; "
    "lm_head.dense.weight 8,8 m; lm_head.dense.bias 8 b; lm_head.layer_norm.weight 8 n",
    "RoBERTa to classify": "roberta.embeddings.word_embeddings.weight 90,8 e; "
    "classifier.dense.weight 8,8 m; classifier.dense.bias 8 b; classifier.out_proj.weight 2,8 "
    "h",
    "GPT-2, tied": "transformer.wte.weight 50,8 e; transformer.wpe.weight 16,8 e; "
    "transformer.h.0.ln_1.weight 8 n; transformer.h.0.attn.c_attn.weight 8,24 m; "
    "transformer.h.0.mlp.c_proj.weight 32,8 m; transformer.h.1.attn.c_attn.weight 8,24 m; "
    "transformer.h.1.mlp.c_proj.weight 32,8 m; transformer.ln_f.weight 8 n",
    "nanoGPT": "transformer.wte.weight 50,8 e; transformer.wpe.weight 16,8 e; "
    "transformer.h.0.attn.c_attn.weight 24,8 m; transformer.h.0.mlp.c_proj.weight 8,32 m; "
    "transformer.ln_f.weight 8 n; lm_head.weight 50,8 h",
    "a lecture's GPT": "token_embedding_table.weight 65,8 e; position_embedding_table.weight "
    "16,8 e; blocks.0.sa.heads.0.key.weight 4,8 m; blocks.0.sa.proj.weight 8,8 m; "
    "blocks.0.ffwd.net.0.weight 32,8 m; ln_f.weight 8 n; lm_head.weight 65,8 h",
    "GPT in one block, tied": "emb 65,8 e; pos 16,8 e; Wq 8,8 m; Wk 8,8 m; Wv 8,8 m; Wo 8,8 "
    "m; W1 8,32 m; b1 32 b; W2 32,8 m; b2 8 b",
    "GPT by names with _": "wte 65,8 e; h0_ln1 8 n; h0_qkv 8,24 m; h0_out 24,8 m; h0_out_b 8 "
    "b; h1_ln1 8 n; h1_qkv 8,24 m; h1_out 24,8 m; h1_out_b 8 b",
    "GPT-NeoX": "gpt_neox.embed_in.weight 50,8 e; "
    "gpt_neox.layers.0.attention.query_key_value.weight 24,8 m; "
    "gpt_neox.layers.0.mlp.dense_4h_to_h.weight 8,32 m; gpt_neox.final_layer_norm.weight 8 n; "
    "embed_out.weight 50,8 h",
    "Llama": "model.embed_tokens.weight 50,8 e; model.layers.0.self_attn.q_proj.weight 8,8 "
    "m; model.layers.0.self_attn.k_proj.weight 2,8 m; model.layers.0.mlp.gate_proj.weight "
    "22,8 m; model.layers.0.input_layernorm.weight 8 n; model.norm.weight 8 n; lm_head.weight "
    "50,8 h",
    "Llama as Meta has it": "tok_embeddings.weight 50,8 e; layers.0.attention.wq.weight 8,8 "
    "m; layers.0.attention_norm.weight 8 n; norm.weight 8 n; output.weight 50,8 h",
    "Llama to classify": "model.embed_tokens.weight 50,8 e; "
    "model.layers.0.mlp.down_proj.weight 8,22 m; score.weight 3,8 h",
    "Qwen, tied": "model.embed_tokens.weight 50,8 e; model.layers.0.self_attn.q_proj.weight "
    "8,8 m; model.layers.0.self_attn.q_proj.bias 8 b; model.layers.0.mlp.down_proj.weight "
    "8,22 m; model.layers.1.self_attn.q_proj.weight 8,8 m; "
    "model.layers.1.mlp.down_proj.weight 8,22 m; model.norm.weight 8 n",
    "Mistral of experts": "model.embed_tokens.weight 50,8 e; model.layers.0.mlp.gate.weight "
    "4,8 m; model.layers.0.mlp.experts.down_proj 4,8,22 a; lm_head.weight 50,8 h",
    "T5, tied": "shared.weight 50,8 e; "
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight 32,2 b; "
    "encoder.block.0.layer.0.SelfAttention.q.weight 8,8 m; "
    "encoder.block.0.layer.0.layer_norm.weight 8 n; encoder.final_layer_norm.weight 8 n; "
    "decoder.block.0.layer.2.DenseReluDense.wo.weight 8,32 m; "
    "decoder.block.1.layer.2.DenseReluDense.wo.weight 8,32 m",
    "BART": "model.shared.weight 50,8 e; model.encoder.embed_positions.weight 18,8 e; "
    "model.encoder.layers.0.self_attn.k_proj.weight 8,8 m; model.encoder.layers.0.fc2.weight "
    "8,32 m; model.encoder.layernorm_embedding.weight 8 n; model.decoder.layers.0.fc2.weight "
    "8,32 m; model.decoder.layers.1.fc2.weight 8,32 m",
    "BART to classify": "model.shared.weight 50,8 e; model.encoder.layers.0.fc2.weight 8,32 "
    "m; classification_head.dense.weight 8,8 m; classification_head.dense.bias 8 b; "
    "classification_head.out_proj.weight 3,8 h",
    "Whisper": "model.encoder.conv1.weight 8,80,3 a; model.encoder.embed_positions.weight "
    "15,8 e; model.decoder.embed_tokens.weight 50,8 e; model.decoder.layers.0.fc1.weight 32,8 "
    "m; proj_out.weight 50,8 h",
    "CLIP": "logit_scale - v; text_model.embeddings.token_embedding.weight 50,8 e; "
    "text_model.encoder.layers.0.self_attn.q_proj.weight 8,8 m; "
    "text_model.encoder.layers.0.mlp.fc1.weight 32,8 m; "
    "vision_model.embeddings.class_embedding 9 v; "
    "vision_model.embeddings.patch_embedding.weight 9,3,4,4 a; "
    "vision_model.embeddings.position_embedding.weight 17,9 e; visual_projection.weight 8,9 "
    "h; text_projection.weight 8,8 h",
    "Mamba": "backbone.embeddings.weight 50,8 e; backbone.layers.0.mixer.A_log 16,4 s; "
    "backbone.layers.0.mixer.D 16 v; backbone.layers.0.mixer.conv1d.weight 16,1,4 a; "
    "backbone.layers.0.mixer.in_proj.weight 32,8 m; backbone.layers.0.mixer.dt_proj.weight "
    "16,2 m; backbone.layers.0.mixer.dt_proj.bias 16 b; backbone.layers.0.norm.weight 8 n; "
    "backbone.norm_f.weight 8 n; lm_head.weight 50,8 h",
    "Mamba 2": "backbone.layers.0.mixer.dt_bias 4 b; backbone.layers.0.mixer.A_log 4 v; "
    "backbone.layers.0.mixer.in_proj.weight 32,8 m; lm_head.weight 50,8 h",
    "RWKV": "emb.weight 50,8 e; blocks.0.ln1.weight 8 n; blocks.0.att.time_mix_k 1,1,8 s; "
    "blocks.0.att.time_faaaa 2,4 s; blocks.0.att.key.weight 8,8 m; blocks.0.ffn.value.weight "
    "8,32 m; head.weight 50,8 h",
    "wav2vec 2.0": "wav2vec2.masked_spec_embed 8 v; "
    "wav2vec2.feature_extractor.conv_layers.0.conv.weight 5,1,10 a; "
    "wav2vec2.feature_projection.projection.weight 8,5 m; "
    "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0 1,1,12 a; "
    "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1 8,2,12 a; "
    "wav2vec2.encoder.layers.0.attention.k_proj.weight 8,8 m; lm_head.weight 32,8 h",
    "LoRA": "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight 2,8 m; "
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight 8,2 m; "
    "base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight 2,8 m; "
    "base_model.model.model.layers.1.self_attn.q_proj.lora_B.default.weight 8,2 m",
    "diffusion": "time_embed.0.weight 128,32 m; time_embed.0.bias 128 b; label_emb.weight "
    "10,128 e; input_blocks.0.0.weight 32,3,3,3 a; input_blocks.1.0.emb_layers.1.weight "
    "64,128 m; input_blocks.1.0.emb_layers.1.bias 64 b; norm1.linear.weight 64,128 m; "
    "norm1.linear.bias 64 n; out.2.weight 3,32,3,3 h",
    "Keras": "conv2d/kernel:0 3,3,1,32 a; batch_normalization/gamma:0 32 n; dense/kernel:0 "
    "156,64 m; dense/bias:0 64 b; dense_1/kernel:0 64,10 h; dense_1/bias:0 10 b",
    "Keras 3, recurrent": "sequential/embedding/embeddings 90,8 e; "
    "sequential/gru/gru_cell/kernel 8,24 m; sequential/gru/gru_cell/recurrent_kernel 8,24 m; "
    "sequential/gru/gru_cell/bias 2,24 b; sequential/dense/kernel 8,1 h; "
    "sequential/dense/bias 1 b",
    "Flax, by the alphabet": "BottleneckBlock_0.Conv_0.kernel 1,1,64,64 a; Dense_0.bias 10 "
    "b; Dense_0.kernel 64,10 h; bn_init.scale 64 n; conv_init.kernel 7,7,3,64 a",
    "Flax of ten layers and more": "Dense_0/kernel 8,8 m; Dense_1/kernel 8,8 m; "
    "Dense_10/kernel 8,3 h; Dense_2/kernel 8,8 m; Embed_0/embedding 50,8 e",
    "scikit-learn": "coefs_.0 64,100 m; coefs_.1 100,10 h; intercepts_.0 100 b; "
    "intercepts_.1 10 b",
    "logistic regression": "coef_ 3,4 h; intercept_ 3 b",
    "DQN": "network.0.weight 32,4,8,8 a; network.7.weight 512,313 m; network.7.bias 512 b; "
    "network.9.weight 6,512 h; network.9.bias 6 b",
    "dueling": "feature.0.weight 128,4 m; feature.0.bias 128 b; value.0.weight 128,128 m; "
    "value.2.weight 1,128 h; advantage.0.weight 128,128 m; advantage.2.weight 2,128 h",
    "actor and critic": "actor.0.weight 64,4 m; actor.0.bias 64 b; actor.2.weight 2,64 h; "
    "critic.0.weight 64,4 m; critic.2.weight 1,64 h; critic.2.bias 1 b",
    "actor of a Gaussian": "critic.0.weight 64,4 m; critic.2.weight 1,64 h; "
    "actor_mean.0.weight 64,4 m; actor_mean.2.weight 6,64 h; actor_logstd 1,6 s",
    "Stable-Baselines": "mlp_extractor.policy_net.0.weight 64,4 m; "
    "mlp_extractor.policy_net.2.weight 64,64 m; mlp_extractor.value_net.0.weight 64,4 m; "
    "mlp_extractor.value_net.2.weight 64,64 m; action_net.weight 2,64 h; value_net.weight "
    "1,64 h",
    "SAC": "fc1.weight 256,17 m; fc1.bias 256 b; fc2.weight 256,256 m; fc_mean.weight 6,256 "
    "h; fc_mean.bias 6 b; fc_logstd.weight 6,256 h; fc_logstd.bias 6 b",
    "LSTM": "emb.weight 90,8 e; lstm.weight_ih_l0 64,8 m; lstm.weight_hh_l0 64,16 m; "
    "lstm.bias_ih_l0 64 b; lstm.bias_hh_l0 64 b; fc.weight 90,16 h; fc.bias 90 b",
    "LSTM alone": "lstm.weight_ih_l0 64,8 m; lstm.weight_hh_l0 64,16 m; lstm.bias_ih_l0 64 b",
    "words, encoder and decoder": "encoder.weight 90,8 e; rnn.weight_ih_l0 32,8 m; "
    "rnn.weight_hh_l0 32,8 m; rnn.bias_ih_l0 32 b; decoder.weight 90,8 h; decoder.bias 90 b",
    "word2vec": "in_embed.weight 90,8 e; out_embed.weight 90,8 h",
    "GCN": "conv1.lin.weight 16,143 m; conv1.bias 16 b; conv2.lin.weight 7,16 h; conv2.bias "
    "7 b",
    "GraphSAGE": "convs.0.lin_l.weight 64,100 m; convs.0.lin_l.bias 64 b; "
    "convs.0.lin_r.weight 64,100 m; convs.1.lin_l.weight 7,64 h; convs.1.lin_l.bias 7 b; "
    "convs.1.lin_r.weight 7,64 h",
    "NeRF": "pts_linears.0.weight 256,63 m; pts_linears.0.bias 256 b; pts_linears.1.weight "
    "256,256 m; views_linears.0.weight 128,283 m; feature_linear.weight 256,256 m; "
    "alpha_linear.weight 1,256 a; rgb_linear.weight 3,128 h; rgb_linear.bias 3 b",
    "autoencoder": "encoder.0.weight 128,784 m; encoder.0.bias 128 b; encoder.2.weight "
    "32,128 m; encoder.2.bias 32 b; decoder.0.weight 128,32 m; decoder.0.bias 128 b; "
    "decoder.2.weight 784,128 h; decoder.2.bias 784 b",
    "factors W and H": "W 50,5 m; H 5,30 m",
    "factors of users and items": "user_factors.weight 94,20 m; item_factors.weight 168,20 "
    "m; user_bias.weight 94,1 b; item_bias.weight 168,1 b; mu - v",
}  # fmt: skip


def read(text):
    """Give the shapes and the kinds of one line of the table, by name."""
    shapes, kinds = {}, {}
    for line in text.split(";"):
        name, shape, letter = line.split()
        shapes[name] = () if shape == "-" else tuple(map(int, shape.split(",")))
        kinds[name] = LETTERS[letter]
    return shapes, kinds


def made(shapes):
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("model", MODELS)
def test_networks_that_people_have(model):
    shapes, kinds = read(MODELS[model])
    groups = optkern.groups(made(shapes), muon={"lr": 0.02}, lr=1e-3)
    assert groups.kinds == kinds
    for group in groups:
        for name in group["params"]:
            small = len(shapes[name]) < 2 or kinds[name] not in ("matrix", "array", "head")
            assert (group.get("weight_decay") == 0) == small, name
            assert group["rule"] == ("muon" if kinds[name] == "matrix" else "adamw"), name


UNSURE = {
    "two matrices": {"U": (50, 5), "V": (5, 30)},
    "an autoencoder by two letters": {"E": (30, 5), "D": (5, 30)},
    "nothing in common": {"first.weight": (9, 5), "second.weight": (32, 2)},
    "an attention by itself": {"query.weight": (8, 8), "key.weight": (8, 8), "out.weight": (8, 8)},
}


@pytest.mark.parametrize("shapes", UNSURE.values(), ids=UNSURE)
def test_what_names_and_shapes_leave_open_is_said_to_be_open(shapes):
    *_, last = shapes
    groups = optkern.groups(made(shapes), muon=True, lr=0.1)
    assert groups.reasons[last] == "being the last matrix; not sure: name it with head=..."
    assert "not sure: name it with head=..." in str(groups)
    for head in (last, ()):  # which is what it says to do
        reason = optkern.groups(made(shapes), muon=True, lr=0.1, head=head).reasons[last]
        assert "not sure" not in reason


def test_an_embedding_that_nothing_says_is_one():
    """Of characters, joined before the first layer: their sides fit nothing."""
    arrays = [np.ones(shape) for shape in ((27, 10), (30, 200), (200,), (200, 27), (27,))]
    groups = optkern.groups(arrays, muon=True, lr=0.1)
    assert "not sure: name it with embeddings=..." in groups.reasons[0]
    named = optkern.groups(arrays, muon=True, lr=0.1, embeddings=["0"])
    assert named.kinds[0] == "embedding" and "not sure" not in str(named)


DEPTHS = {  # timm's, where it has the network
    "ViT (timm)": "cls_token 0; pos_embed 0; patch_embed.proj.weight 0; blocks.0.norm1.weight 1; "
    "blocks.0.mlp.fc1.weight 1; norm.weight 1; head.weight 2",
    "ViT (torchvision)": "class_token 0; encoder.layers.encoder_layer_0.ln_1.weight 2; "
    "encoder.layers.encoder_layer_0.mlp.0.weight 2; heads.head.weight 3",
    "ResNet": "conv1.weight 1; bn1.weight 1; layer1.0.conv1.weight 2; layer1.0.bn1.weight 2; "
    "layer1.1.conv1.weight 3; layer2.0.downsample.1.weight 3; fc.weight 4",
    "GPT-2, tied": "transformer.wte.weight 0; transformer.h.0.attn.c_attn.weight 1; "
    "transformer.h.1.mlp.c_proj.weight 2; transformer.ln_f.weight 2",
    "GPT by names with _": "wte 0; h0_ln1 1; h0_qkv 1; h0_out_b 1; h1_ln1 2; h1_out 2",
    "T5, tied": "shared.weight 0; encoder.block.0.layer.0.SelfAttention.q.weight 1; "
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight 1; "
    "decoder.block.0.layer.2.DenseReluDense.wo.weight 2",
    "VGG": "features.0.weight 1; classifier.0.weight 2; classifier.3.bias 3; classifier.6.weight 4",
    "Flax of ten layers and more": "Dense_0/kernel 1; Dense_2/kernel 3; Dense_10/kernel 4",
    "scikit-learn": "coefs_.0 1; intercepts_.0 1; coefs_.1 2; intercepts_.1 2",
}  # fmt: skip


@pytest.mark.parametrize("model", DEPTHS)
def test_layers_of_networks_that_people_have(model):
    shapes, _ = read(MODELS[model])
    groups = optkern.groups(made(shapes), lr=1.0, layer_decay=0.5)
    rates = {name: group["lr"] for group in groups for name in group["params"]}
    depths = {name: -np.log2(rate) for name, rate in rates.items()}
    wanted = dict(line.split() for line in DEPTHS[model].split(";"))
    first = next(iter(wanted))
    for name, depth in wanted.items():
        assert depths[first] - depths[name] == int(depth) - int(wanted[first]), name
