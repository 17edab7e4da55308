"""The three families as the literal sequence of their equations, in NCHW: the oracle of tests/test_literal.py.

Plain functions over the weights of a foveal model. Nothing here is shared with the package. EMSNet is a network of
maps [B, C, H, W]: 1x1 convolutions are convolutions, windows are unfolded and folded, transposed convolutions are
transposed convolutions. The other two are networks of tokens [B, N, C] that become contiguous maps for convolutions:
windows are a loop, tokens are sorted, every background token gets its key and value.
"""

import math

import torch
import torch.nn.functional as F


def conv1x1(x, linear):
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def batch_norm(x, norm):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, 0.1, norm.eps)


def layer_norm(x, norm):
    """LayerNorm over the channels of [B, C, H, W]."""
    x = F.layer_norm(x.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return x.permute(0, 3, 1, 2)


def conv(x, module):
    return F.conv2d(x, module.weight, module.bias, module.stride, module.padding, groups=module.groups)


def conv_norm(x, module):
    x = batch_norm(conv(x, module.conv), module.norm)
    return F.gelu(x) if isinstance(module.act, torch.nn.GELU) else x


def map_mlp(x, module):
    return conv1x1(F.gelu(conv1x1(x, module.fc1)), module.fc2)


def token_mlp(x, module, H, W):
    x = module.fc1(x)
    if module.dwconv is not None:
        x = tokens(conv(to_map(x, H, W), module.dwconv))
    return module.fc2(F.gelu(x))


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def to_map(x, H, W):
    return x.transpose(1, 2).reshape(x.shape[0], -1, H, W).contiguous()


def attention(q, k, v):
    return ((q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def heads(x, h):
    """[B, N, C] -> [B, h, N, C/h]."""
    return x.unflatten(-1, (h, -1)).transpose(1, 2)


def head(x, module):
    x = x.mean((2, 3))
    if hasattr(module.pre_logits, "fc"):
        x = F.gelu(module.pre_logits.fc(x))
    return module.fc(x)


# ---------------------------------------------------------------- EMSNet, eq. 3.1-3.10


def propagate(x, module, H, W):
    weight = module.weight.permute(3, 1, 0, 2)  # [p, 1, p, C] -> [C, 1, p, p]
    p = weight.shape[-1]
    return F.conv_transpose2d(x, weight, stride=p, groups=x.shape[1])[..., :H, :W]


def c_mhsa(x, module):
    B, C, H, W = x.shape
    h = module.num_heads
    s = F.conv2d(x, module.dwconv.weight, stride=2, padding=1, groups=x.shape[1])
    H2, W2 = s.shape[2:]
    a = conv1x1(s, module.attn).view(B, h, 9, 9, H2 * W2).softmax(dim=3)  # eq. 3.9
    v = F.unfold(x, 3, stride=2, padding=1).view(B, C, 9, H2 * W2)
    v = torch.einsum("oc,bckl->bokl", module.v.weight, v).view(B, h, C // h, 9, H2 * W2)
    y = torch.einsum("bhqkl,bhckl->bhcql", a, v).reshape(B, C * 9, H2 * W2)
    return conv1x1(F.fold(y, (H, W), 3, stride=2, padding=1), module.proj)  # eq. 3.10


def g_mhsa(x, module):
    B, C, H, W = x.shape
    q, k, v = (heads(t, module.num_heads) for t in tokens(conv1x1(x, module.qkv)).chunk(3, -1))
    return conv1x1(to_map(attention(q, k, v).transpose(1, 2).flatten(2), H, W), module.proj)


def scale_branch(x, module, p, pool, mixer):
    H, W = x.shape[2:]
    if pool == "max":
        y = F.max_pool2d(x, p, p, ceil_mode=True)
    else:
        y = F.avg_pool2d(x, p, p, ceil_mode=True, count_include_pad=False)
    return propagate(mixer(conv1x1(y, module.embed.proj), module.mixer), module.prop, H, W)


def coordinate_dwconv(x, module):
    x = F.conv2d(x, module.weight_w, padding=(0, 1), groups=x.shape[1])
    return F.conv2d(x, module.weight_h, padding=(1, 0), groups=x.shape[1])


def static_operator(x, module, whiten_axis):
    dim = x.shape[1]
    t = F.conv2d(x, module.pw_in.weight[:dim, :, None, None])
    xw = t - (t.mean((2, 3), keepdim=True) if whiten_axis == "spatial" else t.mean(1, keepdim=True))  # eq. 3.1
    if module.dwconv is None:
        return xw
    xm = conv(xw, module.dwconv)
    m1, m2, m3 = xm.split(module.chs, 1) if module.channel_split else (xm, xm, xm)
    parts = [scale_branch(m1, module.branch2, 2, "max", coordinate_dwconv), m2]  # eq. 3.2
    if module.branch4 is not None:
        parts.append(scale_branch(m3, module.branch4, 4, "max", coordinate_dwconv))  # eq. 3.3
    y = torch.cat(parts, 1)
    if module.proj is None:
        return y
    gate = conv1x1(y, module.proj).sigmoid()  # eq. 3.4
    return F.conv2d(x, module.pw_in.weight[dim:, :, None, None]) * gate  # eq. 3.5


def dynamic_operator(x, module):
    if module.global_branch is None:
        return conv1x1(scale_branch(x, module.conv_branch, 4, "avg", c_mhsa), module.proj)
    x1, x2 = x.split(module.chs, 1) if module.channel_split else (x, x)
    y1 = scale_branch(x1, module.conv_branch, 4, "avg", c_mhsa)  # eq. 3.7
    y2 = scale_branch(x2, module.global_branch, 6, "avg", g_mhsa)  # eq. 3.6
    return conv1x1(torch.cat((y1, y2), 1), module.proj)  # eq. 3.8


def emsnet(model, x, whiten_axis="spatial"):
    x = conv_norm(conv_norm(x, model.stem[0]), model.stem[1])
    for stage in model.stages:
        if hasattr(stage.downsample, "conv"):
            x = conv_norm(x, stage.downsample)
        for block in stage.blocks:
            mixer = block.mixer
            u = conv1x1(batch_norm(x, block.norm1), mixer.proj_in)
            if mixer.dynamic is not None:
                xs, xd = u.chunk(2, 1) if mixer.channel_split else (u, u)
                u = torch.cat((static_operator(xs, mixer.static, whiten_axis), dynamic_operator(xd, mixer.dynamic)), 1)
            elif mixer.static is not None:
                u = static_operator(u, mixer.static, whiten_axis)
            x = x + (conv1x1(u, mixer.proj_out) if hasattr(mixer.proj_out, "weight") else u)
            x = x + map_mlp(batch_norm(x, block.norm2), block.mlp)
    return head(batch_norm(x, model.final), model.head)


# ---------------------------------------------------------------- MAT Transformer, eq. 4.1-4.5


def mat_attention(x, module, H, W):
    """A loop over windows; partial windows at the border are simply smaller."""
    B, N, C = x.shape
    h, w = module.num_heads, module.window_size
    q, k, v = module.qkv(x).chunk(3, -1)
    local = torch.zeros_like(x).unflatten(1, (H, W))
    abstracts = []
    for top in range(0, H, w):
        for left in range(0, W, w):
            window = (slice(None), slice(top, top + w), slice(left, left + w))
            qw, kw, vw = (heads(t.unflatten(1, (H, W))[window].flatten(1, 2), h) for t in (q, k, v))
            if module.mix:
                abstract = module.abstract.expand(B, -1, -1, -1)
                qw = torch.cat((qw, abstract), 2)
                if module.abstract_kv:
                    kw, vw = torch.cat((kw, abstract), 2), torch.cat((vw, abstract), 2)
            y = attention(qw, kw, vw).transpose(1, 2).flatten(2)  # eq. 4.1, 4.2
            if module.mix:
                y, a = y[:, :-1], y[:, -1:]
                abstracts.append(a)
            local[window] = y.unflatten(1, local[window].shape[1:3])
    local = local.flatten(1, 2)
    if not module.mix:
        return module.proj(local)
    a = torch.cat(abstracts, 1)
    qa, ka, va = (heads(t, h) for t in module.mix_qkv(a).chunk(3, -1))
    a = module.mix_proj(attention(qa, ka, va).transpose(1, 2).flatten(2))  # eq. 4.3, 4.4
    kf, vf = (heads(t, h) for t in module.fuse_kv(a).chunk(2, -1))
    z = attention(heads(q, h), kf, vf).transpose(1, 2).flatten(2)  # eq. 4.5
    return module.proj(local + z)


def bilinear_patch_embed(x, module):
    B, C, H, W = x.shape
    o = conv1x1(F.gelu(conv(x, module.offset_dwconv)), module.offset)
    ys = torch.arange(o.shape[2], dtype=x.dtype) * 2 + 0.5
    xs = torch.arange(o.shape[3], dtype=x.dtype) * 2 + 0.5
    px = (xs[None, None, :] + o[:, 0]).clamp(0, W - 1)
    py = (ys[None, :, None] + o[:, 1]).clamp(0, H - 1)
    x0, y0 = px.floor().clamp(max=W - 1), py.floor().clamp(max=H - 1)
    fx, fy = (px - x0)[:, None], (py - y0)[:, None]
    x0, y0 = x0.long(), y0.long()
    x1, y1 = (x0 + 1).clamp(max=W - 1), (y0 + 1).clamp(max=H - 1)

    def gather(row, col):
        index = (row * W + col).flatten(1)[:, None].expand(-1, C, -1)
        return x.flatten(2).gather(2, index).view(B, C, *o.shape[2:])

    top = gather(y0, x0) * (1 - fx) + gather(y0, x1) * fx
    bottom = gather(y1, x0) * (1 - fx) + gather(y1, x1) * fx
    s = top * (1 - fy) + bottom * fy
    if module.dwconv is not None:
        s = s + conv(s, module.dwconv.conv)
    return conv_norm(s, module.proj)


def patch_merging(x, module):
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    return conv_norm(F.pixel_unshuffle(x, 2), module.proj)


def mat(model, x):
    for module in model.stem:
        x = conv_norm(x, module)
    for stage in model.stages:
        down = stage.downsample
        if hasattr(down, "offset"):
            x = bilinear_patch_embed(x, down)
        elif hasattr(down, "proj"):
            x = patch_merging(x, down)
        elif hasattr(down, "conv"):
            x = conv_norm(x, down)
        H, W = x.shape[2:]
        x = tokens(x)
        for block in stage.blocks:
            if block.attn is not None:
                x = x + tokens(conv(to_map(x, H, W), block.cpe.conv))
                x = x + mat_attention(block.norm1(x), block.attn, H, W)
            x = x + token_mlp(block.norm2(x), block.mlp, H, W)
        x = to_map(stage.norm(x), H, W)
    return head(conv_norm(x, model.final), model.head)


# ---------------------------------------------------------------- PartialFormer, eq. 5.4-5.7


def channel_mlp(y, module):
    if not isinstance(module, torch.nn.Sequential):
        return module(y)
    y = F.layer_norm(module[0](y), module[1].normalized_shape, module[1].weight, module[1].bias, module[1].eps)
    return module[3](F.relu(y))


def mmsa(x, module):
    h = module.num_heads
    q, k, v = (heads(t, h) for t in module.qkv(x).chunk(3, -1))
    s = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if module.head_mlp is None:
        a = s.softmax(-1)
    else:
        s = torch.einsum("gh,bhij->bgij", module.head_mlp.fc1.weight, s).softmax(-1)
        a = torch.einsum("hg,bgij->bhij", module.head_mlp.fc2.weight, s)  # eq. 5.5
    return (a @ v).transpose(1, 2).flatten(2)


def partial_attention(x, raw, module):
    """Sort, gather, two branches, concatenate, undo the sort."""
    if module.attention == "full":
        return module.proj(mmsa(x, module))
    B, N, d = x.shape
    h = module.num_heads
    score = {
        "mean": lambda: raw.mean(-1),
        "l2": lambda: raw.square().sum(-1).sqrt(),
        "mean_normed": lambda: x.mean(-1),
    }[module.score]()
    order = score.argsort(dim=1, descending=True)  # eq. 5.4
    sorted_x = x.gather(1, order[..., None].expand(-1, -1, d))
    n_f = -(-N // module.fg_div)
    x_f, x_b = sorted_x[:, :n_f], sorted_x[:, n_f:]
    if module.query == "abstract" and module.abstract is not None:
        x_f = torch.cat((module.abstract.expand(B, -1, -1), x_f), 1)
    o_f = mmsa(x_f, module)
    if not module.project_all:
        o_f = module.proj(o_f)
    q_a = o_f[:, :1]
    if module.query == "abstract" and module.abstract is not None:
        o_f = o_f[:, 1:]
    elif module.query == "learned":
        q_a = module.abstract.expand(B, -1, -1)
    elif module.query == "fg_mean":
        q_a = o_f.mean(1, keepdim=True)
    o_b = x_b
    if module.channel_mlp is not None:
        _, k_b, v_b = module.qkv(x_b).chunk(3, -1)
        if module.attention == "bg_mean":
            y = v_b.mean(1, keepdim=True)
        else:
            y = attention(heads(q_a, h), heads(k_b, h), heads(v_b, h)).transpose(1, 2).flatten(2)  # eq. 5.6
        y = channel_mlp(y, module.channel_mlp)
        o_b = x_b + y if module.sqa_residual else y.expand(-1, x_b.shape[1], -1)  # eq. 5.7
    out = torch.cat((o_f, o_b), 1)
    if module.project_all:
        out = module.proj(out)
    return out.gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, d))


def partialformer(model, x):
    for module in model.stem:
        if hasattr(module, "norm"):
            x = conv_norm(x, module)
        elif isinstance(module, torch.nn.Conv2d):
            x = conv(x, module)
        else:
            x = layer_norm(x, module)
    for stage in model.stages:
        if isinstance(stage.downsample, torch.nn.Sequential):
            x = layer_norm(conv(x, stage.downsample[0]), stage.downsample[1])
        H, W = x.shape[2:]
        x = tokens(x)
        for block in stage.blocks:
            if hasattr(block.peg, "conv"):
                x = x + tokens(conv(to_map(x, H, W), block.peg.conv))
            x = x + partial_attention(block.norm1(x), x, block.attn)
            x = x + token_mlp(block.norm2(x), block.mlp, H, W)
        x = to_map(x, H, W)
    return head(layer_norm(x, model.final), model.head)
