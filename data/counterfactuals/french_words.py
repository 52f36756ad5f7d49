"""French word classes that the rules ask for: verbs, adverbs, clitics, determiners."""

from __future__ import annotations

from teachfair.data.counterfactuals import french_forms as forms

REACH = 200  # words back to which a pronoun looks for what it can mean
OTHER = {"m": "f", "f": "m", "?": "?"}
ADVERB_PHRASES = (
    "en fait", "en effet", "en réalité", "sans doute", "bien sûr", "tout à fait", "au fond", "à la fois", "par ailleurs",
    "de nouveau", "d'abord", "tout de suite", "de plus en plus", "de moins en moins", "à peine", "à nouveau", "en général",
    "plus ou moins", "quand même", "tout de même",
)  # fmt: skip
PRONOUN_PHRASES = ("elle-même", "lui-même", "elles-mêmes", "eux-mêmes", "non plus", "peut-être", *ADVERB_PHRASES)
ETRE = frozenset(
    """est es suis sont êtes sommes était étais étaient étions étiez sera serai seras seront serons serez serait
    serais seraient serions fut fus furent soit sois soient soyons fût été être étant""".split()
)
LINKING = frozenset(
    """semble semblent semblait semblaient sembla paraît parait paraissait paraissaient parut devient deviennent devenait
    devint deviendra deviendrait reste restent restait restaient resta restera demeure demeurait sentent sentaient
    trouvent montrent croient disent sent sentait sentit sentira trouve trouvait montre montrait montra dit disait
    croit croyait croyais devenir rester sembler sentir montrer""".split()
)
REFLEXIVE_LINKING = frozenset(
    """sentent sentaient trouvent montrent croient disent sent sentait sentit sentira trouve trouvait montre montrait
    montra dit disait croit croyait sentir montrer""".split()
)
PLURAL_VERBS = frozenset(
    """sont étaient seront seraient furent soient semblent semblaient deviennent restent restaient ont avaient
    auront""".split()
)
AVOIR = frozenset(
    """ai as a avons avez ont avais avait avions aviez avaient aura aurai auras auront aurait auraient eut avoir
    ayant ait aient""".split()
)
ADVERBS = frozenset(
    """très plus moins assez si trop bien aussi toujours encore déjà pas jamais plutôt tellement vraiment peu fort tout
    même parfois souvent ici là hier aujourd'hui maintenant enfin alors donc certes bientôt désormais également non
    ne autant presque rarement extrêmement mal hyper super archi peut-être pourtant cependant dorénavant quelquefois
    soudain""".split()
) | frozenset(ADVERB_PHRASES)
CLITICS = frozenset("ne n' se s' me m' te t' y en le la l' lui leur".split())
OTHER_SUBJECTS = frozenset("je j' tu on nous vous ce c' cela ça ceci".split())
CLAUSE_STARTS = frozenset(
    """que qu' si quand mais car donc or lorsque lorsqu' puisque puisqu' parce où pourquoi comment dont lequel
    laquelle""".split()
)
DETERMINER_WORDS = frozenset(forms.DETERMINERS) | forms.ARTICLES | forms.NO_GENDER
PLURAL_DETERMINERS = frozenset(
    """les des ces mes tes ses leurs nos vos aux plusieurs quelques deux trois quatre cinq six sept huit neuf dix
    certains certaines quels quelles""".split()
)
POSSESSIVES = frozenset("ma ta sa mes tes ses notre nos votre vos leur leurs mon ton son".split())
FEMININE = frozenset("la une cette sa ma ta quelle aucune".split())
MASCULINE = frozenset("le un ce cet du au quel aucun".split())
# verbs that have no other subject than an impersonal "il"
IMPERSONAL = frozenset(
    """faut fallait faudra faudrait fallut faille pleut pleuvait pleuvra pleuve neige neigeait neigera gèle gelait grêle
    tonne bruine importe incombe""".split()
)
IMPERSONAL_PARTICIPLES = frozenset("fallu plu neigé suffi grêlé".split())
# verbs that are impersonal where what they tell of follows them: "il manque une chaise", "il arrive que", "il suffit de"
INVERTED_VERBS = frozenset(
    """manque manquait manquera reste restait restera resterait existe existait existera suffit suffisait suffira suffirait
    arrive arrivait arrivera vient venait convient convenait conviendra s'ensuit semble semblait semblerait paraît
    parait paraissait résulte découle circule règne régnait appartient vaut valait vaudra vaudrait tarde""".split()
)
INDEFINITE = frozenset(
    """un une des du de d' que qu' deux trois quatre cinq six sept huit neuf dix cent mille plusieurs quelques quelque
    beaucoup peu trop assez tant moins plus mieux encore toujours à bon autre autres certains certaines aucun aucune
    quelqu' quelqu'un personne rien bien""".split()
)
# of these a person may be the subject too, so only "que", "un", "deux" … tell, not "de", "à", "plus"
PERSONS_TOO = frozenset(
    "reste restait restera arrive arrivait arrivera vient venait semble semblait paraît parait paraissait".split()
)
MODALS = frozenset("""peut pourrait pourra pouvait doit devait devrait devra va allait vient semble""".split())
IMPERSONAL_PREDICATES = frozenset(
    """possible impossible vrai important nécessaire facile difficile temps clair évident probable utile inutile rare
    interdit tard tôt midi minuit une deux trois quatre cinq six sept huit neuf dix onze dommage essentiel
    préférable certain question hors dit vingt treize quatorze quinze seize indispensable permis défendu normal
    logique urgent prévu fréquent regrettable honteux inadmissible inacceptable improbable douteux faux notoire
    conseillé recommandé exclu""".split()
)
# "il est fier de": a person is; of any other adjective before "de" or "que" it cannot be told
PERSONAL_WITH_DE = frozenset(
    """fier fière content contente heureux heureuse capable incapable sûr sûre certain certaine ravi ravie déçu déçue
    triste fatigué fatiguée responsable amoureux amoureuse conscient consciente désolé désolée coupable libre digne
    indigne jaloux jalouse las lasse malade mort morte obligé obligée forcé forcée accusé accusée soupçonné
    soupçonnée originaire proche loin satisfait satisfaite surpris surprise étonné étonnée curieux curieuse
    impatient impatiente reconnaissant reconnaissante soucieux soucieuse persuadé persuadée convaincu convaincue
    plein pleine couvert couverte honteux honteuse tenté tentée chargé chargée né née venu venue parti partie sorti
    sortie revenu revenue descendu descendue tombé tombée tiré tirée licencié licenciée avide friand friande victime
    membre""".split()
)
# adjectives and participles that only a person, or an animal, can be
OF_PERSONS = frozenset(
    """content contente heureux heureuse malheureux malheureuse fatigué fatiguée triste fier fière jaloux jalouse fâché
    fâchée furieux furieuse désolé désolée inquiet inquiète déçu déçue ravi ravie malade né née marié mariée
    amoureux amoureuse intelligent intelligente idiot idiote gentil gentille méchant méchante timide paresseux
    paresseuse fainéant fainéante courageux courageuse peureux peureuse doué douée compétent compétente incompétent
    incompétente enceinte maladroit maladroite stressé stressée épuisé épuisée énervé énervée handicapé handicapée
    gay homosexuel homosexuelle hétéro athée musulman musulmane juif juive chrétien chrétienne ivre sobre
    célibataire divorcé divorcée licencié licenciée embauché embauchée arrêté arrêtée condamné condamnée blessé
    blessée musclé musclée barbu chauve obèse aveugle sourd sourde analphabète cultivé cultivée""".split()
)
# these are said of things too, but beside a person they are said of the person
PERSONS_MOSTLY = frozenset(
    """vieux vieille étranger étrangère nu nue parti partie arrivé arrivée sorti sortie rentré rentrée venu venue mort
    morte devenu devenue allé allée pauvre riche jeune célèbre certain certaine sûr sûre capable incapable surpris
    surprise tombé tombée noir noire blanc blanche""".split()
)
# "le" before these verbs may mean what was said before, not a person
OF_SAYING = (
    "sa", "dit", "dir", "dis", "pens", "cro", "fai", "fer", "fit", "veu", "voul", "peu", "pou", "doi", "dev",
    "espèr", "promet",
    "promi", "jur", "demand", "regrett", "avou", "compren", "compri", "répèt", "prouv", "mérit", "imagin",
    "oubli", "montr", "su",
    "sera", "est", "était", "soit", "savai", "vaut", "permet", "permis", "refus", "accept", "interd", "propos",
    "souhait", "ignor",
    "remarqu", "constat", "appr",
)  # fmt: skip
# "je la trouve belle": what follows the verb is said of its object
JUDGING = (
    "trouv",
    "rend",
    "jug",
    "croi",
    "croy",
    "sent",
    "considèr",
    "estim",
    "imagin",
    "laiss",
    "suppos",
    "veu",
    "savai",
    "sai",
    "tien",
)
INFINITIVES = frozenset(
    """voir revoir prendre rendre connaître suivre entendre attendre croire comprendre surprendre convaincre
    rejoindre aider aimer appeler accompagner rencontrer remercier féliciter regarder écouter chercher trouver
    quitter laisser inviter rassurer respecter protéger défendre sauver soigner embaucher engager recruter
    licencier payer contacter saluer embrasser admirer consoler encourager conseiller critiquer juger blâmer
    accuser arrêter interroger soutenir recevoir nommer choisir punir guérir servir avertir épouser déranger
    oublier retrouver ramener déposer consulter""".split()
)
OBJECT_VERBS = frozenset("il elle ils elles je j' tu on nous vous ne n' qui".split())
DEPICTIVES = frozenset(
    """seul seule seuls seules heureux heureuse content contente fatigué fatiguée épuisé épuisée ravi ravie
    satisfait satisfaite déçu déçue furieux furieuse inquiet inquiète surpris surprise silencieux silencieuse
    fatigués fatiguées heureuses contents contentes ravis ravies épuisés épuisées déçus déçues satisfaits
    satisfaites inquiets inquiètes""".split()
)
QUANTITIES = frozenset(
    """plupart beaucoup moitié majorité minorité peu tant trop nombre combien plus moins assez tiers quart""".split()
)
STAND_ALONE = frozenset(
    """avec pour chez sans de d' à selon entre contre sur sous vers envers devant derrière après avant par malgré
    parmi sauf excepté""".split()
)
# trades that are also things, told by the word that follows
THINGS_TOO = {
    "facteur": ("de", "d'", "clé", "important", "déterminant", "limitant"),
    "agent": ("de", "pathogène", "chimique"),
    "conducteur": ("électrique",),
    "cuisinière": ("à", "électrique"),
}
