// Convolutions with 3 x 3 taps over height and width in fewer multiplications; see conv_cpu.c, whose products these use.
//
// Winograd's F(4 x 4, 3 x 3) over height and width [0]: 4 x 4 outputs of 6 x 6 inputs take 36 products in place of 144,
// each of them between planes [n, t, 1, tiles, channels], which are convolved along time only.
// [0] Lavin & Gray, 2016, arXiv:1509.09308.
#include "conv_cpu.c"

enum { SIDE = 6, TILE = 4, PLANES = SIDE * SIDE, CHUNK = 256 };

static inline void kernel_transform(const vec *in, size step, vec *out, size out_step) {
    vec a = in[0], b = in[step], c = in[2 * step];
    out[0] = a / 4;
    out[out_step] = -(a + b + c) / 6;
    out[2 * out_step] = (b - a - c) / 6;
    out[3 * out_step] = a / 24 + b / 12 + c / 6;
    out[4 * out_step] = a / 24 - b / 12 + c / 6;
    out[5 * out_step] = c;
}

static inline void input_transform(const vec *in, size step, vec *out, size out_step) {
    vec a = in[0], b = in[step], c = in[2 * step], d = in[3 * step], e = in[4 * step], f = in[5 * step];
    out[0] = 4 * a - 5 * c + e;
    out[out_step] = (d + e) - 4 * (b + c);
    out[2 * out_step] = 4 * (b - c) + (e - d);
    out[3 * out_step] = 2 * (d - b) + (e - c);
    out[4 * out_step] = 2 * (b - d) + (e - c);
    out[5 * out_step] = 4 * b - 5 * d + f;
}

static inline void output_transform(const vec *in, size step, vec *out, size out_step) {
    vec sum = in[step] + in[2 * step], difference = in[step] - in[2 * step];
    vec sum2 = in[3 * step] + in[4 * step], difference2 = in[3 * step] - in[4 * step];
    out[0] = in[0] + sum + sum2;
    out[out_step] = difference + 2 * difference2;
    out[2 * out_step] = sum + 4 * sum2;
    out[3 * out_step] = difference + 8 * difference2 + in[5 * step];
}

// The output transform, transposed.
static inline void gradient_transform(const vec *in, size step, vec *out, size out_step) {
    vec even = in[0] + in[2 * step], odd = in[step] + in[3 * step];
    vec even2 = in[0] + 4 * in[2 * step], odd2 = 2 * in[step] + 8 * in[3 * step];
    out[0] = in[0];
    out[out_step] = even + odd;
    out[2 * out_step] = even - odd;
    out[3 * out_step] = even2 + odd2;
    out[4 * out_step] = even2 - odd2;
    out[5 * out_step] = in[3 * step];
}

// A row of tiles of a map [high, broad, channels] to planes, which lie `step` apart. Tiles have `side` places a side: 6
// that overlap, the first beginning one place outside the map, or 4 side by side.
static void to_planes(const float *map, size high, size broad, size channels, size row, size tiles, size side,
    float *planes, size step, const float *zeros) {
    size outside = side == SIDE;
    for (size tile = 0; tile < tiles; tile++, planes += channels) {
        const float *from[PLANES];
        for (size i = 0; i < side * side; i++) {
            size h = row * TILE - outside + i / side, w = tile * TILE - outside + i % side;
            from[i] = h < 0 || h >= high || w < 0 || w >= broad ? zeros : map + (h * broad + w) * channels;
        }
        for (size c = 0; c < channels; c += LANES) {
            vec in[PLANES], half[PLANES], out[PLANES];
            for (size i = 0; i < side * side; i++) in[i] = load(from[i] + c);
            if (side == SIDE) {
                for (int i = 0; i < SIDE; i++) input_transform(in + i, SIDE, half + i, SIDE);
                for (int i = 0; i < SIDE; i++) input_transform(half + i * SIDE, 1, out + i * SIDE, 1);
            } else {
                for (int i = 0; i < TILE; i++) gradient_transform(in + i, TILE, half + i, TILE);
                for (int i = 0; i < SIDE; i++) gradient_transform(half + i * TILE, 1, out + i * SIDE, 1);
            }
            for (int i = 0; i < PLANES; i++) store(planes + i * step + c, out[i]);
        }
    }
}

// And back: a row of tiles of an output.
static void from_planes(const float *planes, size step, float *map, size high, size broad, size channels, size row,
    size tiles) {
    for (size tile = 0; tile < tiles; tile++, planes += channels)
        for (size c = 0; c < channels; c += LANES) {
            vec in[PLANES], half[PLANES], out[TILE * TILE];
            for (int i = 0; i < PLANES; i++) in[i] = load(planes + i * step + c);
            for (int i = 0; i < SIDE; i++) output_transform(in + i, SIDE, half + i, SIDE);
            for (int i = 0; i < TILE; i++) output_transform(half + i * SIDE, 1, out + i * TILE, 1);
            for (size i = 0; i < TILE * TILE; i++) {
                size h = row * TILE + i / TILE, w = tile * TILE + i % TILE;
                if (h < high && w < broad) store(map + (h * broad + w) * channels + c, out[i]);
            }
        }
}

// What is done at a time, so that it stays in the caches: some clips, or some rows of tiles of one.
typedef struct {
    size high, wide;              // tiles of a map
    size clips, rows;             // at a time
    size in_step, out_step;       // from plane to plane, floats
    float *in, *out, *zeros;
} Chunks;

static Chunks chunks_of(const Shape *s) {
    Chunks c = {.high = ceiling(s->h, TILE), .wide = ceiling(s->w, TILE)};
    size clip = s->t * c.high * c.wide;
    c.clips = clip >= CHUNK ? 1 : least(s->n, ceiling(CHUNK, clip));
    c.rows = clip >= CHUNK ? least(c.high, ceiling(CHUNK, s->t * c.wide)) : c.high;
    size most = c.clips * s->t * c.rows * c.wide;
    c.in_step = most * s->run, c.out_step = most * s->out;
    c.in = malloc(PLANES * (c.in_step + c.out_step) * sizeof(float));
    c.out = c.in + PLANES * c.in_step;
    c.zeros = calloc(s->run + s->out, sizeof(float));
    return c;
}

// A plane of a chunk.
static Shape plane_of(const Shape *s, size clips, size tiles) {
    return (Shape){.n = clips, .t = s->t, .h = 1, .w = tiles, .to_n = s->t * tiles * s->out, .to_t = tiles * s->out,
        .to_w = s->out, .in_t = s->t, .in_h = 1, .in_w = tiles, .from_n = s->t * tiles * s->run,
        .from_t = tiles * s->run, .from_w = s->run, .stride_t = 1, .stride_h = 1, .stride_w = 1, .pad_t = s->pad_t,
        .taps_t = s->taps_t, .taps_h = 1, .taps_w = 1, .run = s->run, .out = s->out};
}

// A chunk of a map [n, t, h, w, channels] to planes [clips, t, rows, wide, channels], by all threads together.
static void chunk_to_planes(const Shape *s, const Chunks *c, const Shape *plane, const float *map, size channels,
    size clip, size row, size side, float *planes, size step) {
    size rows = plane->w / c->wide;
#pragma omp for schedule(static)
    for (size i = 0; i < plane->n * s->t * rows; i++)
        to_planes(map + (clip * s->t + i / rows) * s->h * s->w * channels, s->h, s->w, channels, row + i % rows,
            c->wide, side, planes + i * c->wide * channels, step, c->zeros);
}

// y [n, t, h, w, out] of x [n, t, h, w, run] by a kernel of taps_t x 3 x 3 taps, given as
// [PLANES][out / COLS][taps_t][run][COLS]; run and out are multiples of LANES.
void winograd(const Shape *s, const float *x, const float *kernel, float *y) {
    Chunks c = chunks_of(s);
#pragma omp parallel num_threads(s->threads)
    for (size clip = 0; clip < s->n; clip += c.clips)
        for (size row = 0; row < c.high; row += c.rows) {
            size rows = least(c.rows, c.high - row);
            Shape p = plane_of(s, least(c.clips, s->n - clip), rows * c.wide);
            size blocks = ceiling(places(&p), BLOCK);
            chunk_to_planes(s, &c, &p, x, s->run, clip, row, SIDE, c.in, c.in_step);
#pragma omp for schedule(static)
            for (size i = 0; i < PLANES * blocks; i++)
                convolve_block(&p, c.in + i / blocks * c.in_step, kernel + i / blocks * panel(&p),
                    c.out + i / blocks * c.out_step, i % blocks * BLOCK,
                    least(BLOCK, places(&p) - i % blocks * BLOCK), c.zeros);
#pragma omp for schedule(static)
            for (size i = 0; i < p.n * s->t * rows; i++)
                from_planes(c.out + i * c.wide * s->out, c.out_step,
                    y + (clip * s->t + i / rows) * s->h * s->w * s->out, s->h, s->w, s->out, row + i % rows, c.wide);
        }
    free(c.zeros);
    free(c.in);
}

// Adds what x and dy give to the gradient of the 36 kernels, [PLANES][out, taps_t, run].
void winograd_gradient(const Shape *s, const float *x, const float *dy, float *gradient) {
    Chunks c = chunks_of(s);
    size units = s->taps_t * ceiling(s->run, COLS);
#pragma omp parallel num_threads(s->threads)
    {
        float *own = room(s);
        for (size clip = 0; clip < s->n; clip += c.clips)
            for (size row = 0; row < c.high; row += c.rows) {
                Shape p = plane_of(s, least(c.clips, s->n - clip), least(c.rows, c.high - row) * c.wide);
                chunk_to_planes(s, &c, &p, x, s->run, clip, row, SIDE, c.in, c.in_step);
                chunk_to_planes(s, &c, &p, dy, s->out, clip, row, TILE, c.out, c.out_step);
#pragma omp for schedule(static)
                for (size i = 0; i < PLANES; i++)
                    gradient_units(&p, c.in + i * c.in_step, c.out + i * c.out_step,
                        gradient + i * s->out * s->taps_t * s->run, 0, units, own, c.zeros);
            }
        free(own);
    }
    free(c.zeros);
    free(c.in);
}

// The kernel as `winograd` wants it, of w [out, taps_t, 3, 3, run] of any strides: its 3 x 3 taps become 36 planes.
void winograd_pack(const Shape *s, const float *w, Strides by, float *packed) {
    size step = ceiling(s->out, COLS) * COLS * s->taps_t * s->run;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (size block = 0; block < ceiling(s->out, COLS); block++)
        for (size t = 0; t < s->taps_t; t++)
            for (size c = 0; c < s->run; c++) {
                vec in[9], half[SIDE * 3], full[PLANES];
                float *to = packed + ((block * s->taps_t + t) * s->run + c) * COLS;
                for (size k = 0; k < COLS; k += LANES) {
                    size known = least(LANES, s->out - block * COLS - k);
                    const float *from = w + (block * COLS + k) * by.k + t * by.t + c * by.c;
                    for (size i = 0; i < 9; i++)
                        for (size j = 0; j < LANES; j++)
                            in[i][j] = j < known ? from[i / 3 * by.h + i % 3 * by.w + j * by.k] : 0;
                    for (int i = 0; i < 3; i++) kernel_transform(in + i, 3, half + i, 3);
                    for (int i = 0; i < SIDE; i++) kernel_transform(half + i * 3, 1, full + i * SIDE, 1);
                    for (int i = 0; i < PLANES; i++) store(to + i * step + k, full[i]);
                }
            }
}
