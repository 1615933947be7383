// Convolutions of float32 maps and their gradients on a CPU; conv_cpu.py says who calls them with what.
//
// Maps have their channels last, [n, t, h, w, channels]. Two matrix products do all the work, in the textbook's way:
// a piece of ROWS x COLS sums stays in registers (12 of AVX2's 16) while what it is the sum of streams by. Who adds
// what, and in which order, does not depend on the number of threads.
#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef float vec __attribute__((vector_size(32), aligned(4)));
typedef long size;

enum { LANES = 8, ROWS = 6, COLS = 16, BLOCK = 96, DEPTH = 256, POINTS = 256 };

typedef struct {
    size n, t, h, w;                          // places of the output
    size to_n, to_t, to_h, to_w;              // from one to the next, floats
    size in_t, in_h, in_w;                    // places of the input
    size from_n, from_t, from_h, from_w;      // from one to the next, floats
    size stride_t, stride_h, stride_w;
    size pad_t, pad_h, pad_w;                 // zeros thought before the input; behind it are as many as it takes
    size taps_t, taps_h, taps_w;              // of the kernel
    size run, out;                            // floats of a place of the input (channels), channels of the output
    size threads;
} Shape;

typedef struct { size n, t, h, w; } Place;

static inline vec load(const float *p) { return *(const vec *)p; }
static inline void store(float *p, vec v) { *(vec *)p = v; }
static inline size least(size a, size b) { return a < b ? a : b; }
static inline size ceiling(size a, size b) { return (a + b - 1) / b; }
static inline size places(const Shape *s) { return s->n * s->t * s->h * s->w; }
static inline size taps(const Shape *s) { return s->taps_t * s->taps_h * s->taps_w; }
static inline size panel(const Shape *s) { return ceiling(s->out, COLS) * COLS * taps(s) * s->run; }

// Places [from, from + count) of the output.
static void list_places(const Shape *s, size from, size count, Place *at) {
    Place p = {from / s->w / s->h / s->t, from / s->w / s->h % s->t, from / s->w % s->h, from % s->w};
    for (size m = 0; m < count; m++) {
        at[m] = p;
        if (++p.w < s->w) continue;
        p.w = 0;
        if (++p.h < s->h) continue;
        p.h = 0;
        if (++p.t < s->t) continue;
        p.t = 0, p.n++;
    }
}

// The output in pieces of at most `most` places. Of large frames, the same part of each frame in turn: taps along time
// then find it in the caches.
static size pieces(const Shape *s, size most) {
    size frame = s->h * s->w;
    return frame < most ? ceiling(places(s), most) : s->n * s->t * ceiling(frame, most);
}

static size piece(const Shape *s, size most, size i, size *from) {
    size frame = s->h * s->w, parts = ceiling(frame, most), part = i / s->t % parts * most;
    if (frame < most) {
        *from = i * most;
        return least(most, places(s) - *from);
    }
    *from = (i / s->t / parts * s->t + i % s->t) * frame + part;
    return least(most, frame - part);
}

// Where a tap of the kernel looks, from the first place of the input that belongs to a place of the output.
static inline Place look(const Shape *s, size tap) {
    return (Place){0, tap / s->taps_w / s->taps_h - s->pad_t, tap / s->taps_w % s->taps_h - s->pad_h,
        tap % s->taps_w - s->pad_w};
}

// What it sees there for a place of the output.
static inline const float *seen(const Shape *s, const float *x, Place at, Place tap, const float *zeros) {
    size t = at.t * s->stride_t + tap.t, h = at.h * s->stride_h + tap.h, w = at.w * s->stride_w + tap.w;
    if (t < 0 || t >= s->in_t || h < 0 || h >= s->in_h || w < 0 || w >= s->in_w) return zeros;
    return x + at.n * s->from_n + t * s->from_t + h * s->from_h + w * s->from_w;
}

// sums[r][c] += sum_i a[r][i] * b[i][c]
static inline void rows_by_panel(size depth, const float *const a[ROWS], const float *b, float *sums) {
    vec s[ROWS][2];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < 2; v++) s[r][v] = load(sums + r * COLS + v * LANES);
    for (size i = 0; i < depth; i++) {
        vec b0 = load(b + i * COLS), b1 = load(b + i * COLS + LANES);
        for (int r = 0; r < ROWS; r++) {
            s[r][0] += a[r][i] * b0;
            s[r][1] += a[r][i] * b1;
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < 2; v++) store(sums + r * COLS + v * LANES, s[r][v]);
}

// sums[r][c] += sum_m a[m][r] * b[m][c] for r < rows and c < cols; the rows of `sums` are `step` apart.
static inline void panel_by_panel(
    size count, const float *a, const float *b, float *sums, size step, size rows, size cols) {
    vec s[ROWS][2];
    memset(s, 0, sizeof s);
    for (size m = 0; m < count; m++) {
        vec b0 = load(b + m * COLS), b1 = load(b + m * COLS + LANES);
        for (int r = 0; r < ROWS; r++) {
            s[r][0] += a[m * ROWS + r] * b0;
            s[r][1] += a[m * ROWS + r] * b1;
        }
    }
    if (rows == ROWS && cols == COLS) {
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < 2; v++) {
                float *to = sums + r * step + v * LANES;
                store(to, load(to) + s[r][v]);
            }
        return;
    }
    float found[ROWS * COLS];
    memcpy(found, s, sizeof s);
    for (size r = 0; r < rows; r++)
        for (size c = 0; c < cols; c++) sums[r * step + c] += found[r * COLS + c];
}

// Places [from, from + count) of the output, count <= BLOCK.
static void convolve_block(const Shape *s, const float *x, const float *kernel, float *y, size from, size count,
    const float *zeros) {
    Place at[BLOCK];
    const float *row[BLOCK];
    float sums[BLOCK * COLS];
    list_places(s, from, count, at);
    for (size m = count; m < BLOCK; m++) at[m] = at[count - 1];
    for (size k = 0; k < s->out; k += COLS) {
        memset(sums, 0, sizeof sums);
        for (size tap = 0; tap < taps(s); tap++, kernel += s->run * COLS) {
            Place there = look(s, tap);
            for (size m = 0; m < BLOCK; m++) row[m] = seen(s, x, at[m], there, zeros);
            for (size d = 0; d < s->run; d += DEPTH)
                for (size m = 0; m < count; m += ROWS) {
                    const float *a[ROWS];
                    int any = 0;
                    for (int r = 0; r < ROWS; r++) any |= row[m + r] != zeros, a[r] = row[m + r] + d;
                    if (any) rows_by_panel(least(DEPTH, s->run - d), a, kernel + d * COLS, sums + m * COLS);
                }
        }
        for (size m = 0; m < count; m++) {
            float *to = y + at[m].n * s->to_n + at[m].t * s->to_t + at[m].h * s->to_h + at[m].w * s->to_w;
            memcpy(to + k, sums + m * COLS, least(COLS, s->out - k) * sizeof(float));
        }
    }
}

// y [n, t, h, w, out] of x by a kernel [out / COLS][taps][run][COLS].
void convolve(const Shape *s, const float *x, const float *kernel, float *y) {
    float *zeros = calloc(s->run, sizeof(float));
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (size i = 0; i < pieces(s, BLOCK); i++) {
        size from, count = piece(s, BLOCK, i, &from);
        convolve_block(s, x, kernel, y, from, count, zeros);
    }
    free(zeros);
}

// Room for a thread's `gradient_units`.
static float *room(const Shape *s) {
    return calloc((ceiling(s->out, ROWS) * ROWS + COLS) * POINTS, sizeof(float));
}

// COLS of the floats that a tap sees, from the c-th on, at places of the output.
static void gather(const Shape *s, const float *x, const Place *at, size count, size tap, size c, float *b,
    const float *zeros) {
    size cols = least(COLS, s->run - c);
    Place there = look(s, tap);
    for (size m = 0; m < count; m++, b += COLS) {
        const float *from = seen(s, x, at[m], there, zeros) + c;
        if (cols == COLS) {
            store(b, load(from));
            store(b + LANES, load(from + LANES));
        } else
            for (size i = 0; i < cols; i++) b[i] = from[i];
    }
}

// Adds to units [first, last) of a gradient [out][taps][run]; a unit is COLS of the floats that one tap sees.
static void gradient_units(const Shape *s, const float *x, const float *dy, float *gradient, size first, size last,
    float *a, const float *zeros) {
    size units = ceiling(s->run, COLS), step = taps(s) * s->run;
    float *b = a + ceiling(s->out, ROWS) * ROWS * POINTS;
    Place at[POINTS];
    for (size i = 0; i < pieces(s, POINTS); i++) {
        size from, count = piece(s, POINTS, i, &from);
        list_places(s, from, count, at);
        for (size k = 0; k < s->out; k += ROWS)  // dy as [out / ROWS][POINTS][ROWS]
            for (size m = 0; m < count; m++) {
                const float *row = dy + (from + m) * s->out + k;
                float *to = a + k * POINTS + m * ROWS;
                if (k + ROWS <= s->out)
                    for (size r = 0; r < ROWS; r++) to[r] = row[r];
                else
                    for (size r = 0; r < s->out - k; r++) to[r] = row[r];
            }
        for (size unit = first; unit < last; unit++) {
            size tap = unit / units, c = unit % units * COLS, cols = least(COLS, s->run - c);
            gather(s, x, at, count, tap, c, b, zeros);
            for (size k = 0; k < s->out; k += ROWS)
                panel_by_panel(count, a + k * POINTS, b, gradient + k * step + tap * s->run + c, step,
                    least(ROWS, s->out - k), cols);
        }
    }
}

// Adds what x and dy [n, t, h, w, out] give to a gradient [out, taps, run].
void convolve_gradient(const Shape *s, const float *x, const float *dy, float *gradient) {
    size units = taps(s) * ceiling(s->run, COLS);
    float *zeros = calloc(s->run, sizeof(float));
#pragma omp parallel num_threads(s->threads)
    {
        size part = omp_get_thread_num(), parts = omp_get_num_threads();
        float *own = room(s);
        gradient_units(s, x, dy, gradient, units * part / parts, units * (part + 1) / parts, own, zeros);
        free(own);
    }
    free(zeros);
}

// Winograd's F(4 x 4, 3 x 3) over height and width [0]: 4 x 4 outputs of 6 x 6 inputs take 36 products in place of 144,
// each of them between planes [n, t, 1, tiles, channels], which are convolved along time only.
// [0] Lavin & Gray, 2016, arXiv:1509.09308.
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

typedef struct { size k, t, h, w, c; } Strides;

// The kernel as `convolve` wants it, [out / COLS][taps][run][COLS], of w [out, taps_t, taps_h, taps_w, run] of any
// strides (floats).
void pack(const Shape *s, const float *w, Strides by, float *packed) {
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (size block = 0; block < ceiling(s->out, COLS); block++)
        for (size tap = 0; tap < taps(s); tap++) {
            size cols = least(COLS, s->out - block * COLS);
            float *to = packed + (block * taps(s) + tap) * s->run * COLS;
            const float *from = w + block * COLS * by.k + tap / s->taps_w / s->taps_h * by.t +
                tap / s->taps_w % s->taps_h * by.h + tap % s->taps_w * by.w;
            for (size c = 0; c < s->run; c++)
                for (size k = 0; k < COLS; k++) to[c * COLS + k] = k < cols ? from[c * by.c + k * by.k] : 0;
        }
}

// The same for `winograd`: the 3 x 3 taps become 36 planes.
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
