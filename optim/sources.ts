/** Where the methods come from, as data: a program can print the sources of what it used. */

/**
 * A publication.
 *
 * @since 0.1.0
 */
export interface Source {
  readonly authors: string;
  readonly year: number;
  readonly title: string;
  readonly venue: string;
  /** An address that stays, where there is one. */
  readonly url?: string;
}

const momentum: readonly Source[] = [
  {
    authors: "B. T. Polyak",
    year: 1964,
    title: "Some methods of speeding up the convergence of iteration methods",
    venue: "USSR Computational Mathematics and Mathematical Physics 4(5)",
    url: "https://doi.org/10.1016/0041-5553(64)90137-5",
  },
];

const adam: readonly Source[] = [
  {
    authors: "D. P. Kingma, J. Ba",
    year: 2015,
    title: "Adam: a method for stochastic optimization",
    venue: "ICLR",
    url: "https://arxiv.org/abs/1412.6980",
  },
];

const adamw: readonly Source[] = [
  {
    authors: "I. Loshchilov, F. Hutter",
    year: 2019,
    title: "Decoupled weight decay regularization",
    venue: "ICLR",
    url: "https://arxiv.org/abs/1711.05101",
  },
];

const adagrad: readonly Source[] = [
  {
    authors: "J. Duchi, E. Hazan, Y. Singer",
    year: 2011,
    title: "Adaptive subgradient methods for online learning and stochastic optimization",
    venue: "Journal of Machine Learning Research 12",
    url: "https://jmlr.org/papers/v12/duchi11a.html",
  },
];

const rmsprop: readonly Source[] = [
  {
    authors: "T. Tieleman, G. Hinton",
    year: 2012,
    title: "Lecture 6.5: RMSprop: divide the gradient by a running average of its recent magnitude",
    venue: "Coursera, Neural networks for machine learning",
  },
  {
    authors: "A. Graves",
    year: 2013,
    title: "Generating sequences with recurrent neural networks",
    venue: "arXiv",
    url: "https://arxiv.org/abs/1308.0850",
  },
];

const lion: readonly Source[] = [
  {
    authors:
      "X. Chen, C. Liang, D. Huang, E. Real, K. Wang, Y. Liu, H. Pham, X. Dong, T. Luong, C.-J. Hsieh, Y. Lu, Q. V. Le",
    year: 2023,
    title: "Symbolic discovery of optimization algorithms",
    venue: "NeurIPS",
    url: "https://arxiv.org/abs/2302.06675",
  },
];

const lamb: readonly Source[] = [
  {
    authors:
      "Y. You, J. Li, S. Reddi, J. Hseu, S. Kumar, S. Bhojanapalli, X. Song, J. Demmel, K. Keutzer, C.-J. Hsieh",
    year: 2020,
    title: "Large batch optimization for deep learning: training BERT in 76 minutes",
    venue: "ICLR",
    url: "https://arxiv.org/abs/1904.00962",
  },
];

const muon: readonly Source[] = [
  {
    authors: "K. Jordan, Y. Jin, V. Boza, J. You, F. Cesista, L. Newhouse, J. Bernstein",
    year: 2024,
    title: "Muon: an optimizer for hidden layers in neural networks",
    venue: "Published by its authors",
    url: "https://kellerjordan.github.io/posts/muon/",
  },
  {
    authors: "J. Bernstein, L. Newhouse",
    year: 2024,
    title: "Old optimizer, new norm: an anthology",
    venue: "arXiv",
    url: "https://arxiv.org/abs/2409.20325",
  },
];

const steihaug: Source = {
  authors: "T. Steihaug",
  year: 1983,
  title: "The conjugate gradient method and trust regions in large scale optimization",
  venue: "SIAM Journal on Numerical Analysis 20(3)",
  url: "https://doi.org/10.1137/0720042",
};

/**
 * The sources by the name of the method, as plans and optimizers name it.
 *
 * @example When a method was published
 * ```ts
 * assert(ct.optim.sources["adam"]![0]!.year === 2015);
 * ```
 * @since 0.1.0
 */
export const sources: Readonly<Record<string, readonly Source[]>> = {
  sgd: [
    {
      authors: "H. Robbins, S. Monro",
      year: 1951,
      title: "A stochastic approximation method",
      venue: "Annals of Mathematical Statistics 22(3)",
      url: "https://doi.org/10.1214/aoms/1177729586",
    },
  ],
  momentum,
  heavyBall: momentum,
  nesterov: [
    {
      authors: "Y. Nesterov",
      year: 1983,
      title: "A method for solving the convex programming problem with convergence rate O(1/k²)",
      venue: "Soviet Mathematics Doklady 27",
    },
    {
      authors: "I. Sutskever, J. Martens, G. Dahl, G. Hinton",
      year: 2013,
      title: "On the importance of initialization and momentum in deep learning",
      venue: "ICML",
      url: "https://proceedings.mlr.press/v28/sutskever13.html",
    },
  ],
  adam,
  scaleByAdam: adam,
  adamw,
  addDecayedWeights: adamw,
  adagrad,
  scaleByAdagrad: adagrad,
  rmsprop,
  scaleByRms: rmsprop,
  lion,
  scaleByLion: lion,
  lamb,
  scaleByTrustRatio: lamb,
  muon,
  scaleByMuon: muon,
  orthogonalize: muon,
  sophia: [
    {
      authors: "H. Liu, Z. Li, D. Hall, P. Liang, T. Ma",
      year: 2024,
      title: "Sophia: a scalable stochastic second-order optimizer for language model pre-training",
      venue: "ICLR",
      url: "https://arxiv.org/abs/2305.14342",
    },
  ],
  adahessian: [
    {
      authors: "Z. Yao, A. Gholami, S. Shen, M. Mustafa, K. Keutzer, M. W. Mahoney",
      year: 2021,
      title: "AdaHessian: an adaptive second order optimizer for machine learning",
      venue: "AAAI",
      url: "https://arxiv.org/abs/2006.00719",
    },
  ],
  ema: [
    {
      authors: "B. T. Polyak, A. B. Juditsky",
      year: 1992,
      title: "Acceleration of stochastic approximation by averaging",
      venue: "SIAM Journal on Control and Optimization 30(4)",
      url: "https://doi.org/10.1137/0330046",
    },
  ],
  lookahead: [
    {
      authors: "M. R. Zhang, J. Lucas, G. Hinton, J. Ba",
      year: 2019,
      title: "Lookahead optimizer: k steps forward, 1 step back",
      venue: "NeurIPS",
      url: "https://arxiv.org/abs/1907.08610",
    },
  ],
  penalized: [
    {
      authors: "A. E. Hoerl, R. W. Kennard",
      year: 1970,
      title: "Ridge regression: biased estimation for nonorthogonal problems",
      venue: "Technometrics 12(1)",
      url: "https://doi.org/10.1080/00401706.1970.10488634",
    },
  ],
  oneCycleSchedule: [
    {
      authors: "L. N. Smith, N. Topin",
      year: 2019,
      title: "Super-convergence: very fast training of neural networks using large learning rates",
      venue: "Artificial Intelligence and Machine Learning for Multi-Domain Operations Applications, SPIE",
      url: "https://arxiv.org/abs/1708.07120",
    },
  ],
  cosineSchedule: [
    {
      authors: "I. Loshchilov, F. Hutter",
      year: 2017,
      title: "SGDR: stochastic gradient descent with warm restarts",
      venue: "ICLR",
      url: "https://arxiv.org/abs/1608.03983",
    },
  ],
  clipByGlobalNorm: [
    {
      authors: "R. Pascanu, T. Mikolov, Y. Bengio",
      year: 2013,
      title: "On the difficulty of training recurrent neural networks",
      venue: "ICML",
      url: "https://arxiv.org/abs/1211.5063",
    },
  ],
  shampoo: [
    {
      authors: "V. Gupta, T. Koren, Y. Singer",
      year: 2018,
      title: "Shampoo: preconditioned stochastic tensor optimization",
      venue: "ICML",
      url: "https://arxiv.org/abs/1802.09568",
    },
    {
      authors:
        "H.-J. M. Shi, T.-H. Lee, S. Iwasaki, J. Gallego-Posada, Z. Li, K. Rangadurai, D. Mudigere, M. Rabbat",
      year: 2023,
      title:
        "A distributed data-parallel PyTorch implementation of the distributed Shampoo optimizer for training neural networks at-scale",
      venue: "arXiv",
      url: "https://arxiv.org/abs/2309.06497",
    },
  ],
  soap: [
    {
      authors: "N. Vyas, D. Morwani, R. Zhao, M. Kwun, I. Shapira, D. Brandfonbrener, L. Janson, S. Kakade",
      year: 2025,
      title: "SOAP: improving and stabilizing Shampoo using Adam",
      venue: "ICLR",
      url: "https://arxiv.org/abs/2409.11321",
    },
  ],
  kfac: [
    {
      authors: "J. Martens, R. Grosse",
      year: 2015,
      title: "Optimizing neural networks with Kronecker-factored approximate curvature",
      venue: "ICML",
      url: "https://arxiv.org/abs/1503.05671",
    },
    {
      authors: "R. Grosse, J. Martens",
      year: 2016,
      title: "A Kronecker-factored approximate Fisher matrix for convolution layers",
      venue: "ICML",
      url: "https://arxiv.org/abs/1602.01407",
    },
    {
      authors: "J. G. Pauloski, Q. Huang, L. Huang, S. Venkataraman, K. Chard, I. Foster, Z. Zhang",
      year: 2021,
      title: "KAISA: an adaptive second-order optimizer framework for deep neural networks",
      venue: "International Conference for High Performance Computing, Networking, Storage and Analysis",
      url: "https://arxiv.org/abs/2107.01739",
    },
  ],
  sampledLoss: [
    {
      authors: "F. Kunstner, L. Balles, P. Hennig",
      year: 2019,
      title: "Limitations of the empirical Fisher approximation for natural gradient descent",
      venue: "NeurIPS",
      url: "https://arxiv.org/abs/1905.12558",
    },
  ],
  lbfgs: [
    {
      authors: "D. C. Liu, J. Nocedal",
      year: 1989,
      title: "On the limited memory BFGS method for large scale optimization",
      venue: "Mathematical Programming 45",
      url: "https://doi.org/10.1007/BF01589116",
    },
    {
      authors: "J. Nocedal, S. J. Wright",
      year: 2006,
      title: "Numerical optimization",
      venue: "Springer, second edition",
      url: "https://doi.org/10.1007/978-0-387-40065-5",
    },
  ],
  newtonCg: [
    {
      authors: "S. G. Nash",
      year: 1984,
      title: "Newton-type minimization via the Lanczos method",
      venue: "SIAM Journal on Numerical Analysis 21(4)",
      url: "https://doi.org/10.1137/0721052",
    },
    steihaug,
  ],
  gaussNewton: [
    {
      authors: "K. Levenberg",
      year: 1944,
      title: "A method for the solution of certain non-linear problems in least squares",
      venue: "Quarterly of Applied Mathematics 2(2)",
      url: "https://doi.org/10.1090/qam/10666",
    },
    {
      authors: "D. W. Marquardt",
      year: 1963,
      title: "An algorithm for least-squares estimation of nonlinear parameters",
      venue: "Journal of the Society for Industrial and Applied Mathematics 11(2)",
      url: "https://doi.org/10.1137/0111030",
    },
    {
      authors: "H. B. Nielsen",
      year: 1999,
      title: "Damping parameter in Marquardt's method",
      venue: "Technical University of Denmark, report IMM-REP-1999-05",
    },
  ],
  gaussNewtonOperator: [
    {
      authors: "N. N. Schraudolph",
      year: 2002,
      title: "Fast curvature matrix-vector products for second-order gradient descent",
      venue: "Neural Computation 14(7)",
      url: "https://doi.org/10.1162/08997660260028683",
    },
  ],
  conjugateGradient: [
    {
      authors: "M. R. Hestenes, E. Stiefel",
      year: 1952,
      title: "Methods of conjugate gradients for solving linear systems",
      venue: "Journal of Research of the National Bureau of Standards 49(6)",
      url: "https://doi.org/10.6028/jres.049.044",
    },
    steihaug,
  ],
  lanczos: [
    {
      authors: "C. Lanczos",
      year: 1950,
      title:
        "An iteration method for the solution of the eigenvalue problem of linear differential and integral operators",
      venue: "Journal of Research of the National Bureau of Standards 45(4)",
      url: "https://doi.org/10.6028/jres.045.026",
    },
  ],
  tridiagonalEigen: [
    {
      authors: "H. Bowdler, R. S. Martin, C. Reinsch, J. H. Wilkinson",
      year: 1968,
      title: "The QR and QL algorithms for symmetric matrices",
      venue: "Numerische Mathematik 11",
      url: "https://doi.org/10.1007/BF02166681",
    },
  ],
  hvp: [
    {
      authors: "B. A. Pearlmutter",
      year: 1994,
      title: "Fast exact multiplication by the Hessian",
      venue: "Neural Computation 6(1)",
      url: "https://doi.org/10.1162/neco.1994.6.1.147",
    },
  ],
  fosi: [
    {
      authors: "H. Sivan, M. Gabel, A. Schuster",
      year: 2024,
      title: "FOSI: hybrid first and second order optimization",
      venue: "ICLR",
      url: "https://arxiv.org/abs/2302.08484",
    },
  ],
  published: [
    {
      authors: "S. Gu, C. You, B. Ren, L. Luo, J. Xia, D. Guo",
      year: 2025,
      title: "DHO2: accelerating distributed hybrid order optimization via model parallelism and ADMM",
      venue: "arXiv",
      url: "https://arxiv.org/abs/2505.00982",
    },
  ],
  consensus: [
    {
      authors: "S. Boyd, N. Parikh, E. Chu, B. Peleato, J. Eckstein",
      year: 2011,
      title:
        "Distributed optimization and statistical learning via the alternating direction method of multipliers",
      venue: "Foundations and Trends in Machine Learning 3(1)",
      url: "https://doi.org/10.1561/2200000016",
    },
    {
      authors: "S. Zhou, G. Y. Li",
      year: 2023,
      title: "Federated learning via inexact ADMM",
      venue: "IEEE Transactions on Pattern Analysis and Machine Intelligence 45(8)",
      url: "https://arxiv.org/abs/2204.10607",
    },
  ],
};

/** Methods that nobody has to be cited for. */
const unpublished: readonly string[] = [
  "accumulate",
  "clipByValue",
  "freeze",
  "masked",
  "multiTransform",
  "scaleByLearningRate",
];

/**
 * The sources of a method, one line each.
 *
 * Shapes: a list of strings.
 * Units: none.
 *
 * @param name a method as plans and optimizers name it; `fosi(adam)` gives the sources of both, and a chain those of
 * its parts: parts without sources, and parts of one's own, give none
 * @throws {RangeError} if a method is not known
 * @example A hybrid
 * ```ts
 * assert(ct.optim.cite("fosi(adam)").length === 2);
 * assert(ct.optim.cite("adam")[0]!.startsWith("D. P. Kingma, J. Ba (2015). Adam"));
 * ```
 * @since 0.1.0
 */
export function cite(name: string): readonly string[] {
  const isChain = name.includes(" > ");
  return name.split(/[()]| > /).flatMap((part) => {
    if (part === "") return [];
    const found = Object.hasOwn(sources, part) ? sources[part] : undefined;
    if (found) return found.map(showSource);
    if (isChain || unpublished.includes(part)) return [];
    throw new RangeError(
      `Cannot cite "${part}": it is not a known method, one of ${Object.keys(sources).join(", ")} is needed`,
    );
  });
}

function showSource({ authors, year, title, venue, url }: Source): string {
  return `${authors} (${year}). ${title}. ${venue}.${url ? ` ${url}` : ""}`;
}
