"""French word classes that the rules ask for: verbs, adverbs, clitics, determiners."""

from __future__ import annotations

from teachfair.data.counterfactuals import french_forms as forms

REACH = 200  # words back to which a pronoun looks for what it can mean
OTHER = {"m": "f", "f": "m", "?": "?"}
PRONOUN_PHRASES = ("elle-même", "lui-même", "elles-mêmes", "eux-mêmes", "non plus")
ETRE = frozenset(
    """est es suis sont êtes sommes était étais étaient étions étiez sera serai seras seront serons serez serait
    serais seraient serions fut fus furent soit sois soient soyons fût été être étant""".split()
)
LINKING = frozenset(
    """semble semblent semblait semblaient sembla paraît parait paraissait paraissaient parut devient deviennent
    devenait devint deviendra deviendrait reste restent restait restaient resta restera demeure demeurait sent
    sentait sentit sentira trouve trouvait montre montrait montra dit disait croit croyait croyais devenir
    rester sembler sentir montrer""".split()
)
REFLEXIVE_LINKING = frozenset(
    """sent sentait sentit sentira trouve trouvait montre montrait montra dit disait croit croyait sentir montrer""".split()
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
    """très plus moins assez si trop bien aussi toujours encore déjà pas jamais plutôt tellement vraiment peu fort
    tout même parfois souvent ici là hier aujourd'hui maintenant enfin alors donc certes bientôt désormais
    également non ne autant presque rarement extrêmement""".split()
)
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
IMPERSONAL = frozenset(
    """y faut fallait faudra faudrait pleut pleuvait neige neigeait s'agit s'agissait vaut suffit suffisait existe
    existait paraît semblerait convient fait""".split()
)
IMPERSONAL_PREDICATES = frozenset(
    """possible impossible vrai important nécessaire facile difficile temps clair évident probable utile inutile
    rare interdit tard tôt midi minuit une deux trois quatre cinq six sept huit neuf dix onze dommage essentiel
    préférable certain question hors dit""".split()
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
